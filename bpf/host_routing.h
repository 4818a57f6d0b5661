/* eBPF host routing, an option of the node: what one pod sends another goes straight from one namespace to the other, past
 * the node's stack and to_pod. Without HOST_ROUTING nothing here is an instruction.
 *
 * Nothing is assumed of the stack. The first packets of a connection go through it, and to_pod sees whether they come out
 * as from_pod has seen them: what is translated never goes straight. Of every later packet the kernel's own route and
 * neighbours are asked; where they lead elsewhere, or do not know yet, the packet goes through the stack, as does every
 * one that is to be answered or cut there, and all that end a connection.
 */
#pragma once
#include "conntrack.h"
#include "mark.h"
#include "steer.h"

#ifdef HOST_ROUTING

/* Endpoints' interfaces whose other end is in another namespace: nothing can be put into any other. */
PINNED("hash", __u32, __u32, far_ends, 65536, BPF_F_NO_PREALLOC);

#define FROM_BOTH 3 /* of `straight`: 1 << side for an end whose packets are not translated */
#define NEVER 4

#define LAST_HOP 1

#define AF_INET 2
#define AF_INET6 10

struct head { /* of a frame, as far as a router writes */
    struct ethhdr link;
    union {
        struct iphdr v4;
        struct {
            __be32 flow;
            __be16 length;
            __u8 next, hop_limit;
        } v6;
    };
} __attribute__((packed));

/* The connection of a packet that may pass, and has its mark: is it handed over, or looked at in to_pod? */
static __always_inline void choose_way(struct __sk_buff *skb, struct packet *p, const struct connection *c, __u8 side)
{
    __u32 there = ifindex_at(c, !side);

    if (!there || c->ended || c->altered || p->error || p->syn)
        return;
    if (c->straight == FROM_BOTH)
        p->straight_to = there;
    else if (!(c->straight & NEVER))
        skb->mark |= MARK_LOOK;
}

/* A connection that is judged again has the same way, if it has the same ends. */
static __always_inline void keep_way(const struct packet *p, const struct track *t, struct connection *next)
{
    struct connection *known = p->syn ? 0 : t->known;

    if (known && !known->proxied && known->ifindex[0] == next->ifindex[0] && known->ifindex[1] == next->ifindex[1])
        next->straight = known->straight;
}

static __always_inline int is_looked_at(const struct __sk_buff *skb, __u32 judged)
{
    return skb->mark == (judged | MARK_LOOK);
}

static __always_inline int same_packet(const struct packet *one, const struct packet *other)
{
    return same_address(&one->src, &other->src) && same_address(&one->dst, &other->dst) &&
           one->sport == other->sport && one->dport == other->dport && one->protocol == other->protocol;
}

/* `p` is about to reach its pod. What from_pod had at hand on this CPU is still there, unless the stack has kept the packet
 * waiting: then another one tells. */
static __always_inline void look(const struct __sk_buff *skb, const struct packet *p)
{
    __u32 from_pod = 0, ifindex = skb->ifindex;
    struct packet *sent = at_hand.lookup(&from_pod);
    struct track t;

    if (!sent || !same_packet(sent, p))
        return;
    track(p, &t);
    if (!t.known || t.known->proxied || ifindex_at(t.known, !t.side) != ifindex ||
        ifindex_at(t.known, t.side) != skb->ingress_ifindex)
        return;
    if (!far_ends.lookup(&ifindex) || skb->ingress_ifindex == ifindex)
        t.known->straight |= NEVER;
    else
        t.known->straight |= 1 << t.side;
}

/* True where the kernel would forward the packet to the interface `way->ifindex`, as it is, and knows to which hardware
 * address. On return that and the node's own are in `way`. */
static __always_inline int leads_there(struct __sk_buff *skb, struct bpf_fib_lookup *way)
{
    __u32 there = way->ifindex, mtu = 0;

    way->ifindex = skb->ifindex;
    way->tot_len = skb->gso_size ? 0 : skb->len - ETH_HLEN;
    if (bpf_fib_lookup(skb, way, sizeof(*way), BPF_FIB_LOOKUP_DIRECT) || way->ifindex != there)
        return 0;
    return !skb->gso_size || !bpf_check_mtu(skb, there, &mtu, 0, BPF_MTU_CHK_SEGS);
}

/* Straight to the pod, as a router would: a hop less to go, new hardware addresses, and nothing of the node's. The packet
 * has its mark already, for the stack. */
static __always_inline int hand_over(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_fib_lookup way = {.ifindex = p->straight_to};
    const void *found = header(skb, 0, sizeof(struct head));
    struct head head;
    __u32 sum;

    if (skb->pkt_type != PACKET_HOST || !found)
        return TC_ACT_OK;
    __builtin_memcpy(&head, found, sizeof(head));
    if (p->v6) {
        way.family = AF_INET6;
        __builtin_memcpy(way.ipv6_src, &p->src, sizeof(p->src));
        __builtin_memcpy(way.ipv6_dst, &p->dst, sizeof(p->dst));
        if (head.v6.hop_limit-- <= LAST_HOP)
            return TC_ACT_OK;
    } else {
        way.family = AF_INET;
        way.tos = head.v4.tos;
        way.ipv4_src = p->src.word[3];
        way.ipv4_dst = p->dst.word[3];
        if (head.v4.version != 4 || head.v4.ihl != 5 || head.v4.ttl-- <= LAST_HOP)
            return TC_ACT_OK; /* options are for each router to read */
        sum = head.v4.check + BE16(0x100); /* https://www.rfc-editor.org/rfc/rfc1141 */
        head.v4.check = sum + (sum >= 0xffff);
    }
    if (!leads_there(skb, &way))
        return TC_ACT_OK;
    __builtin_memcpy(head.link.h_dest, way.dmac, ETH_ALEN);
    __builtin_memcpy(head.link.h_source, way.smac, ETH_ALEN);
    if (bpf_skb_store_bytes(skb, 0, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM) < 0)
        return TC_ACT_OK;
    skb->mark = 0;
    count(ALLOWED, TO_POD);
    return bpf_redirect_peer(way.ifindex, 0);
}

static __always_inline int onward(struct __sk_buff *skb, const struct packet *p, int action)
{
    return action == TC_ACT_OK && p->straight_to ? hand_over(skb, p) : action;
}

#else /* no host routing */

static __always_inline void choose_way(struct __sk_buff *skb, struct packet *p, const struct connection *c, __u8 side) {}
static __always_inline void keep_way(const struct packet *p, const struct track *t, struct connection *next) {}
static __always_inline int is_looked_at(const struct __sk_buff *skb, __u32 judged) { return 0; }
static __always_inline void look(const struct __sk_buff *skb, const struct packet *p) {}
static __always_inline int onward(struct __sk_buff *skb, const struct packet *p, int action) { return action; }

#endif
