/* Handing a packet to Envoy's socket. Works at tc ingress only (bpf_sk_assign). */
#pragma once
#include "packet.h"

#define MARK_PROXY 0x200  /* an ip rule delivers it locally */
#define MARK_JUDGED 0x400 /* from_pod asked both ends; the endpoint it asked is in the upper half */
#define MARK_ENVOY 0xa00  /* SO_MARK of Envoy's upstream sockets */
#define MARK_MASK 0xf00   /* pods cannot set marks: the kernel clears them on the way out of a namespace */

#define STATE_TIME_WAIT 6
#define STATE_LISTEN 10

static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock_tuple tuple = {};

    if (p->v6) {
        __builtin_memcpy(tuple.ipv6.saddr, &p->src, sizeof(p->src));
        __builtin_memcpy(tuple.ipv6.daddr, &p->dst, sizeof(p->dst));
        tuple.ipv6.sport = p->sport;
        tuple.ipv6.dport = p->dport;
        return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    }
    tuple.ipv4.saddr = p->src.word[3];
    tuple.ipv4.daddr = p->dst.word[3];
    tuple.ipv4.sport = p->sport;
    tuple.ipv4.dport = p->dport;
    return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
}

/* The source stays in the look-up: it spreads connections over the workers' SO_REUSEPORT sockets. */
static __always_inline struct bpf_sock *find_listener(struct __sk_buff *skb, struct packet p, __be16 proxy_port)
{
    if (p.v6) {
        p.dst.word[0] = p.dst.word[1] = p.dst.word[2] = 0;
        p.dst.word[3] = BE32(1);
    } else {
        p.dst.word[3] = BE32(0x7f000001);
    }
    p.dport = proxy_port;
    return find_socket(skb, &p);
}

static __always_inline int give(struct __sk_buff *skb, struct bpf_sock *sk)
{
    int failed = bpf_sk_assign(skb, sk, 0);
    bpf_sk_release(sk);
    if (failed)
        return DROP_NO_PROXY;
    skb->mark = MARK_PROXY;
    return REDIRECTED;
}

/* To the socket of the packet's own connection if Envoy has one (and `known`), else to the listener, which answers a
 * packet out of nowhere with a reset. A SYN on a closed pair of ports starts afresh. */
static __always_inline int steer(struct __sk_buff *skb, const struct packet *p, __be16 proxy_port, int known)
{
    struct bpf_sock *sk;

    if (p->protocol != IPPROTO_TCP)
        return DROP_NOT_TCP;
    if (known) {
        sk = find_socket(skb, p);
        if (sk) {
            if (sk->state != STATE_LISTEN && !(p->syn && sk->state == STATE_TIME_WAIT))
                return give(skb, sk);
            bpf_sk_release(sk);
        }
    }
    sk = proxy_port ? find_listener(skb, *p, proxy_port) : 0;
    if (!sk)
        return DROP_NO_PROXY;
    if (sk->state == STATE_LISTEN)
        return give(skb, sk);
    bpf_sk_release(sk);
    return DROP_NO_PROXY;
}
