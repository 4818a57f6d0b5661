/* What a packet says about itself. Parsing fails closed: whatever is not understood whole is dropped. */
#pragma once
#include "address.h"
#include "reason.h"

#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132

#define IPV4_CHECKSUM 10 /* offsets in their headers */
#define IPV4_DESTINATION 16
#define IPV6_DESTINATION 24
#define ICMPV6_CHECKSUM 2
#define TCP_FLAGS 13 /* of the flags byte */
#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6
#define SCTP_CHECKSUM 8
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define VLAN_VID 0xfff /* of a tag, the number */

#define ARP_SENDER 14 /* offset of the sender's IPv4 address */
#define ND_TARGET 8   /* offset of the address that a neighbour advertisement is about */
#define NEIGHBOUR_ADVERTISEMENT 136

enum { NO_ERROR = 0, FROM_END = 1, FROM_PATH = 2 };

struct packet {
    struct address src, dst;
    struct address sender; /* of an ICMP error: the outer source */
    __be16 sport, dport;   /* of ICMP: see icmp_ports() */
    __be16 service;      /* what a policy calls the port: the destination port, or the ICMP type */
    __u16 tcp;           /* where the TCP header begins */
    __u16 checksum;      /* where its own checksum is, of a protocol with ports; 0: of none */
    __u8 protocol;
    __u8 v6;
    __u8 syn;   /* TCP SYN without ACK: a new connection, whatever is remembered */
    __u8 ends;  /* TCP: FIN ends one direction, RST both */
    __u8 reset; /* TCP RST */
    __u8 error; /* an ICMP error: addresses, ports and protocol are those of a packet it could answer */
#ifdef HOST_ROUTING
    __u32 straight_to; /* the interface of the pod that it may be handed to, or 0 */
#endif
};

/* Of a message without a question. Not 0: type 0 of ICMPv6, which nobody has assigned, would be its own answer. */
#define NO_IDENTIFIER BE16(0xffff)

/* A question names its sender by the identifier and what it asks for by the type, as if these were ports, and an answer
 * turns them round: it belongs to the connection of its question, and nothing else does. */
static __always_inline void icmp_ports(__u8 v6, __u8 type, __be16 identifier, __be16 *sport, __be16 *dport)
{
    __u8 asked = 0; /* the type of the question, if this is its answer */

    if (v6)
        asked = type == 129 ? 128 : type == 161 ? 160 : 0; /* echo, extended echo */
    else
        asked = type == 0 ? 8 : type == 14 ? 13 : type == 43 ? 42 : 0; /* echo, timestamp, extended echo */
    if (asked) {
        *sport = BE16(asked);
        *dport = identifier;
        return;
    }
    *sport = (v6 ? type == 128 || type == 160 : type == 8 || type == 13 || type == 42) ? identifier : NO_IDENTIFIER;
    *dport = BE16(type);
}

/* The packet inside an ICMP error must have been sent by whom the error goes to. Then `p` becomes a packet that travels
 * the other way on that connection; the error itself comes from the connection's other end or from a router between. */
static __always_inline int parse_quoted(struct __sk_buff *skb, __u32 offset, struct packet *p)
{
    struct address src, dst;
    __be16 ports[4];
    __u8 icmp = IPPROTO_ICMP;

    if (p->v6) {
        struct ipv6hdr ip;
        if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0)
            return DROP_MALFORMED;
        __builtin_memcpy(&src, &ip.saddr, sizeof(src));
        __builtin_memcpy(&dst, &ip.daddr, sizeof(dst));
        p->protocol = ip.nexthdr;
        icmp = IPPROTO_ICMPV6;
        offset += sizeof(ip);
    } else {
        struct iphdr ip;
        if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0 || ip.ihl < 5)
            return DROP_MALFORMED;
        map_v4(&src, ip.saddr);
        map_v4(&dst, ip.daddr);
        p->protocol = ip.protocol;
        offset += ip.ihl * 4;
    }
    if (!same_address(&src, &p->dst))
        return DROP_SPOOFED;
    p->error = same_address(&dst, &p->src) ? FROM_END : FROM_PATH;
    p->sender = p->src;
    p->src = dst;
    if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)) < 0)
        return DROP_MALFORMED;
    if (p->protocol == icmp) {
        icmp_ports(p->v6, BE16(ports[0]) >> 8, ports[2], &p->dport, &p->sport);
        return 0;
    }
    p->sport = ports[1];
    p->dport = ports[0];
    return 0;
}

static __always_inline int parse_icmp(struct __sk_buff *skb, __u32 offset, __u8 hops, struct packet *p)
{
    struct {
        __u8 type, code;
        __be16 checksum, identifier, sequence;
    } icmp;

    if (bpf_skb_load_bytes(skb, offset, &icmp, sizeof(icmp)) < 0)
        return DROP_MALFORMED;
    p->service = BE16(icmp.type);
    icmp_ports(p->v6, icmp.type, icmp.identifier, &p->sport, &p->dport);
    if (p->v6) {
        /* Router and neighbour solicitation, neighbour advertisement: 255 hops mean that it came over this very link. */
        if (icmp.type == 133 || icmp.type == 135 || icmp.type == 136)
            return hops == 255 ? PASS_LINK : DROP_MALFORMED;
        if (icmp.type >= 1 && icmp.type <= 4)
            return parse_quoted(skb, offset + sizeof(icmp), p);
        return 0;
    }
    if (icmp.type == 3 || icmp.type == 11 || icmp.type == 12)
        return parse_quoted(skb, offset + sizeof(icmp), p);
    return 0;
}

/* An error about nothing that is known is a message like every other. */
static __always_inline void forget_quoted(struct packet *p)
{
    p->protocol = p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
    p->src = p->sender;
    p->sport = NO_IDENTIFIER;
    p->dport = p->service;
    p->error = NO_ERROR;
}

/* `size` bytes of a header, or null where the packet is shorter. They are read where they lie, and gathered only where a
 * packet in fragments of memory has them elsewhere, and no more than these: what TCP sends shares its memory with the queue
 * of the sender, and to gather of its data, too, the kernel would copy it. What was found before must not be used any more. */
static __always_inline const void *header(struct __sk_buff *skb, __u32 offset, __u32 size)
{
    const void *found = (const void *)(long)skb->data + offset;

    if (found + size <= (const void *)(long)skb->data_end)
        return found;
#ifdef AT_SOCKET
    return 0; /* the stack has gathered them */
#else
    if (bpf_skb_pull_data(skb, offset + size) < 0)
        return 0;
    found = (const void *)(long)skb->data + offset;
    return found + size <= (const void *)(long)skb->data_end ? found : 0;
#endif
}

static __always_inline int parse_transport(struct __sk_buff *skb, __u32 offset, __u8 hops, struct packet *p)
{
    const __be16 *ports;

    if (p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return parse_icmp(skb, offset, hops, p);
    if (p->protocol == IPPROTO_TCP) {
        const __u8 *flags = header(skb, offset + TCP_FLAGS, sizeof(*flags));
        if (!flags)
            return DROP_MALFORMED;
        p->tcp = offset;
        p->checksum = offset + TCP_CHECKSUM;
        p->syn = (*flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
        p->reset = !!(*flags & TCP_RST);
        p->ends = !!(*flags & (TCP_FIN | TCP_RST));
    } else if (p->protocol == IPPROTO_UDP) {
        p->checksum = offset + UDP_CHECKSUM;
    } else if (p->protocol == IPPROTO_SCTP) {
        p->checksum = offset + SCTP_CHECKSUM;
    } else {
        return DROP_UNSUPPORTED; /* IPv6 extension headers too */
    }
    ports = header(skb, offset, 2 * sizeof(*ports));
    if (!ports)
        return DROP_MALFORMED;
    p->sport = ports[0];
    p->dport = ports[1];
    p->service = ports[1];
    return 0;
}

/* VLAN 0 is none: the tag says a priority, and the node takes the frame up as if it had none (IEEE 802.1Q, 6.9). */
static __always_inline int has_priority_only(const struct __sk_buff *skb)
{
    return skb->vlan_present && !(skb->vlan_tci & VLAN_VID);
}

/* Another tag behind that one: the node looks behind it too. */
static __always_inline int is_tagged_again(const struct __sk_buff *skb)
{
    return has_priority_only(skb) && (skb->protocol == BE16(ETH_P_8021Q) || skb->protocol == BE16(ETH_P_8021AD));
}

/* `at`: where the packet begins, behind the link's header. */
static __always_inline int parse_untagged(struct __sk_buff *skb, __u32 at, struct packet *p)
{
    if (skb->protocol == BE16(ETH_P_IP)) {
        const struct iphdr *ip = header(skb, at, sizeof(*ip));
        if (!ip || ip->version != 4 || ip->ihl < 5)
            return DROP_MALFORMED;
        map_v4(&p->src, ip->saddr);
        map_v4(&p->dst, ip->daddr);
        if (ip->frag_off & BE16(0x3fff))
            return DROP_FRAGMENT;
        p->protocol = ip->protocol;
        return parse_transport(skb, at + ip->ihl * 4, ip->ttl, p);
    }
    if (skb->protocol == BE16(ETH_P_IPV6)) {
        const struct ipv6hdr *ip = header(skb, at, sizeof(*ip));
        if (!ip || ip->version != 6)
            return DROP_MALFORMED;
        __builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
        __builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
        if (is_mapped_v4(&p->src) || is_mapped_v4(&p->dst))
            return DROP_MALFORMED; /* would be taken for the IPv4 address */
        p->protocol = ip->nexthdr;
        p->v6 = 1;
        return parse_transport(skb, at + sizeof(*ip), ip->hop_limit, p);
    }
    return skb->protocol == BE16(ETH_P_ARP) ? PASS_LINK : DROP_UNSUPPORTED;
}

/* Fills `p` and returns 0, PASS_LINK (ARP, neighbour discovery), or the reason to drop. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
    return skb->vlan_present ? DROP_UNSUPPORTED : parse_untagged(skb, ETH_HLEN, p);
}

/* The same at an uplink, where frames may have a priority. */
static __always_inline int parse_received(struct __sk_buff *skb, __u32 at, struct packet *p)
{
    return skb->vlan_present && !has_priority_only(skb) ? DROP_UNSUPPORTED : parse_untagged(skb, at, p);
}
