/* Handing a packet to a proxy's socket: Envoy's for HTTP, the agent's for DNS. */
#pragma once
#include "device.h"
#include "mark.h"
#include "packet.h"

#define PACKET_HOST 0 /* linux/if_packet.h */
#define PACKET_OTHERHOST 3

#define LOOPBACK 1 /* interface number of lo in every namespace */

#define STATE_ESTABLISHED 1 /* of a UDP socket: connected */
#define STATE_TIME_WAIT 6
#define STATE_LISTEN 10

static __always_inline __u32 make_tuple(const struct packet *p, struct bpf_sock_tuple *tuple)
{
    if (p->v6) {
        __builtin_memcpy(tuple->ipv6.saddr, &p->src, sizeof(p->src));
        __builtin_memcpy(tuple->ipv6.daddr, &p->dst, sizeof(p->dst));
        tuple->ipv6.sport = p->sport;
        tuple->ipv6.dport = p->dport;
        return sizeof(tuple->ipv6);
    }
    tuple->ipv4.saddr = p->src.word[3];
    tuple->ipv4.daddr = p->dst.word[3];
    tuple->ipv4.sport = p->sport;
    tuple->ipv4.dport = p->dport;
    return sizeof(tuple->ipv4);
}

static __always_inline struct bpf_sock *find_tcp(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock_tuple tuple = {};

    if (make_tuple(p, &tuple) == sizeof(tuple.ipv6))
        return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
}

static __always_inline struct bpf_sock *find_udp(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock_tuple tuple = {};

    if (make_tuple(p, &tuple) == sizeof(tuple.ipv6))
        return bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    return bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
}

/* The packet as if it were addressed to the listener. The source stays in the look-up: it spreads connections over the
 * workers' SO_REUSEPORT sockets. */
static __always_inline struct packet to_listener(struct packet p, __be16 proxy_port)
{
    if (p.v6) {
        p.dst.word[0] = p.dst.word[1] = p.dst.word[2] = 0;
        p.dst.word[3] = BE32(1);
    } else {
        p.dst.word[3] = BE32(0x7f000001);
    }
    p.dport = proxy_port;
    return p;
}

/* Works at tc ingress only. Proxies are root's, and anybody on the node may bind a port that one of them has left, or an
 * IPv6 address that is not the node's (IPV6_FREEBIND). A socket in TIME_WAIT has no owner and hands nothing to anybody. */
static __always_inline int give(struct __sk_buff *skb, struct bpf_sock *sk)
{
    int owned = sk->state != STATE_TIME_WAIT;
    int failed = bpf_sk_assign(skb, sk, 0);
    bpf_sk_release(sk);
    if (failed || (owned && bpf_get_socket_uid(skb)))
        return DROP_NO_PROXY;
    skb->mark = MARK_PROXY;
    return REDIRECTED;
}

/* A listener answers a packet out of nowhere with a reset. */
static __always_inline int to_listening(struct __sk_buff *skb, const struct packet *p, __be16 proxy_port)
{
    struct packet there = to_listener(*p, proxy_port);
    struct bpf_sock *sk = proxy_port ? find_tcp(skb, &there) : 0;

    if (!sk)
        return DROP_NO_PROXY;
    if (sk->state == STATE_LISTEN)
        return give(skb, sk);
    bpf_sk_release(sk);
    return DROP_NO_PROXY;
}

/* Whoever closes first keeps the pair of ports for a minute, and beside that socket the kernel lets no listener begin
 * another: it drops the SYN. So the socket is asked something that it answers with an ACK. A client that begins anew
 * resets what it has not asked for, that ends the socket, and its next SYN finds the ports free (RFC 9293, 3.10.7.3). */
static __always_inline int reopen(struct __sk_buff *skb, const struct packet *p, struct bpf_sock *waits)
{
    __u32 at = p->tcp + TCP_FLAGS - 1; /* checksums are of words */
    __u8 was[4] = {}, now[4] = {};

    if (bpf_skb_load_bytes(skb, at, was, 2) < 0)
        goto drop;
    now[0] = was[0];
    now[1] = TCP_ACK;
    if (bpf_l4_csum_replace(skb, p->tcp + TCP_CHECKSUM, *(__u32 *)was, *(__u32 *)now, 2) < 0 ||
        bpf_skb_store_bytes(skb, at, now, 2, 0) < 0)
        goto drop;
    return give(skb, waits);
drop:
    bpf_sk_release(waits);
    return DROP_MALFORMED;
}

/* To the socket of the packet's own connection if Envoy has one, else to the listener. */
static __always_inline int steer_tcp(struct __sk_buff *skb, const struct packet *p, __be16 proxy_port)
{
    struct bpf_sock *sk = find_tcp(skb, p);

    if (sk) {
        if (p->syn && sk->state == STATE_TIME_WAIT)
            return reopen(skb, p, sk);
        if (sk->state != STATE_LISTEN)
            return give(skb, sk);
        bpf_sk_release(sk);
    }
    return to_listening(skb, p, proxy_port);
}

/* What a client sends goes to the proxy's one socket, what a server answers to the socket that asked it. */
static __always_inline int steer_udp(struct __sk_buff *skb, const struct packet *p, __be16 proxy_port, int asks)
{
    struct packet there = to_listener(*p, proxy_port);
    struct bpf_sock *sk;

    if (asks && !proxy_port)
        return DROP_NOT_TCP;
    sk = asks ? find_udp(skb, &there) : find_udp(skb, p);
    if (!sk)
        return DROP_NO_PROXY;
    if (asks ? sk->state != STATE_ESTABLISHED : sk->state == STATE_ESTABLISHED)
        return give(skb, sk);
    bpf_sk_release(sk);
    return DROP_NO_PROXY;
}

/* `asks`: the packet comes from the end that opened the connection. */
static __always_inline int steer(struct __sk_buff *skb, const struct packet *p, __be16 proxy_port, int asks)
{
    if (p->protocol == IPPROTO_TCP)
        return steer_tcp(skb, p, proxy_port);
    if (p->protocol == IPPROTO_UDP)
        return steer_udp(skb, p, proxy_port, asks);
    return DROP_NOT_TCP;
}

/* True when a proxy's own connection to a server waits for this packet. Only a proxy has sockets with a pod's address. */
static __always_inline int awaited(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock *sk;
    int found = 0;

    if (p->protocol == IPPROTO_TCP && !p->syn) {
        sk = find_tcp(skb, p);
        if (sk) {
            found = sk->state != STATE_LISTEN;
            bpf_sk_release(sk);
        }
    } else if (p->protocol == IPPROTO_UDP) {
        sk = find_udp(skb, p);
        if (sk) {
            found = sk->state == STATE_ESTABLISHED;
            bpf_sk_release(sk);
        }
    }
    return found;
}

/* A bridge would carry the frame of one of its ports on to the hardware address that it names, and the node leaves alone
 * what is addressed to another. Nor is the packet's socket with it any more when the bridge takes up what is its own. The
 * nearest bridge group address (IEEE 802.1Q, 8.6.3) is no bridge's to forward, so the packet goes up right here. A bridge
 * told to forward it (group_fwd_mask) leads to to_pod, which drops it. */
static __always_inline int take_up(struct __sk_buff *skb)
{
    __u8 nearest[6] = {0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e};
    char *device;

    if (skb->pkt_type != PACKET_OTHERHOST && !READ(device, skb, SK_BUFF_DEV) && !above(device))
        return 0;
    return bpf_skb_store_bytes(skb, 0, nearest, sizeof(nearest), 0) || bpf_skb_change_type(skb, PACKET_HOST);
}

/* What became of a proxy's packet on its way, by the socket that has sent it. Conntrack gives it another port where a
 * translated connection of the same client to the same server has its own; what is for a published port goes elsewhere.
 * Then the answers are altered too, and only the stack, which changes them back, finds the socket. */
enum { AS_SENT = 0, RENUMBERED = 1, LED_ELSEWHERE = 2, LED_HERE = 3 /* a client's own, first seen where it was led */ };

static __always_inline int altered(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock *sk = skb->sk;
    struct address there;
    __be32 v4;

    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk || !sk->dst_port) /* the stack's own, for a socket that is gone */
        return AS_SENT;
    if (p->v6) {
        there.word[0] = sk->dst_ip6[0];
        there.word[1] = sk->dst_ip6[1];
        there.word[2] = sk->dst_ip6[2];
        there.word[3] = sk->dst_ip6[3];
    } else {
        v4 = sk->dst_ip4;
        asm volatile("" : "+r"(v4)); /* else one load with a distance that varies, which the verifier refuses */
        map_v4(&there, v4);
    }
    if (!same_address(&there, &p->dst) || sk->dst_port != p->dport)
        return LED_ELSEWHERE;
    return BE16(sk->src_port) == p->sport ? AS_SENT : RENUMBERED;
}

/* Turns a packet on its way to a pod back into the node, as if it left through lo: unlike what is put into the way in, it
 * stays with its entry in conntrack, by which the answers are translated. Its route, to the pod, is taken from it; another
 * destination (of a tunnel, that nobody uses) is how. */
static __always_inline int turn_back(struct __sk_buff *skb)
{
    __u8 nobody[6] = {}; /* the hardware address of lo: else the packet would count as another host's */
    struct bpf_tunnel_key none = {};

    if (bpf_skb_store_bytes(skb, 0, nobody, sizeof(nobody), 0) < 0 ||
        bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0) < 0)
        return TC_ACT_SHOT;
    skb->mark = MARK_TURNED | ((skb->mark & MARK_MASK) == MARK_LEFT ? AS_NAMED : 0);
    return bpf_redirect(LOOPBACK, 0);
}

/* Engines (Docker from 28 on) drop what is for a container and comes from elsewhere than its bridge, before anything is
 * translated. So a packet that was, and that a socket waits for, is for lo itself until conntrack translates it again;
 * one that was not never arrives: lo's own address is no destination for what has no route yet. `turned` is its mark. */
static __always_inline int disguise(struct __sk_buff *skb, const struct packet *p, __u32 turned)
{
    struct packet there = to_listener(*p, 0);
    __u32 sum = p->tcp + TCP_CHECKSUM;
    __s64 difference;

    if (turned & AS_NAMED)
        return 0;
    if (!p->v6) {
        if (!p->error &&
            bpf_l4_csum_replace(skb, sum, p->dst.word[3], there.dst.word[3], BPF_F_PSEUDO_HDR | 4) < 0)
            return DROP_MALFORMED;
        if (bpf_l3_csum_replace(skb, ETH_HLEN + IPV4_CHECKSUM, p->dst.word[3], there.dst.word[3], 4) < 0 ||
            bpf_skb_store_bytes(skb, ETH_HLEN + IPV4_DESTINATION, &there.dst.word[3], 4, 0) < 0)
            return DROP_MALFORMED;
        return 0;
    }
    if (p->error)
        sum = ETH_HLEN + sizeof(struct ipv6hdr) + ICMPV6_CHECKSUM;
    difference = bpf_csum_diff((__be32 *)&p->dst, sizeof(p->dst), (__be32 *)&there.dst, sizeof(there.dst), 0);
    if (bpf_l4_csum_replace(skb, sum, 0, difference, BPF_F_PSEUDO_HDR) < 0 ||
        bpf_skb_store_bytes(skb, ETH_HLEN + IPV6_DESTINATION, &there.dst, sizeof(there.dst), 0) < 0)
        return DROP_MALFORMED;
    return 0;
}
