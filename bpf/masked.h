/* Who was given the node's address on its way (masquerade). */
#pragma once
#include "kernel.h"
#include "mark.h"
#include "verdict.h"

#define IS_REPLY 3 /* enum ip_conntrack_info: from here on answers, and what is not tracked */
#define INFO 7     /* where a packet has it, beside the address of its connection */

/* Where a packet came from before anything was translated, as conntrack remembers it. Returns 0 where it does not. */
static __always_inline int first_source(struct __sk_buff *skb, const struct packet *p, struct address *source)
{
#ifdef NF_CONN_TUPLEHASH /* else this kernel does not tell where that is */
    const __u32 offset = NF_CONN_TUPLEHASH + NF_CONNTRACK_TUPLE_HASH_TUPLE + NF_CONNTRACK_TUPLE_SRC + NF_CONNTRACK_MAN_U3;
    __u64 tracked = 0;
    __be32 v4;

    if (READ(tracked, skb, SK_BUFF__NFCT) || (tracked & INFO) >= IS_REPLY)
        return 0;
    tracked &= ~(__u64)INFO;
    if (!tracked)
        return 0;
    if (p->v6)
        return !READ(*source, tracked, offset);
    if (READ(v4, tracked, offset))
        return 0;
    map_v4(source, v4);
    return 1;
#else
    return 0;
#endif
}

/* True for what conntrack takes for an answer. */
static __always_inline int is_tracked_answer(struct __sk_buff *skb)
{
#ifdef NF_CONN_TUPLEHASH
    __u64 tracked = 0;

    return !READ(tracked, skb, SK_BUFF__NFCT) && (tracked & ~(__u64)INFO) && (tracked & INFO) >= IS_REPLY;
#else
    return 0;
#endif
}

/* An endpoint by the mark, and anybody else by conntrack, who is no endpoint of this node: its own are marked. No identity:
 * it is not known. */
static __always_inline struct owner masked(struct __sk_buff *skb, const struct packet *p)
{
    struct owner *found, sender = {.ifindex = sent_by(skb)};
    struct address source = {};
    __u32 *identity;

    if (sender.ifindex) {
        identity = senders.lookup(&sender.ifindex);
        if (identity)
            sender.identity = *identity;
    } else if (first_source(skb, p, &source)) {
        found = find_owner(&source);
        if (found && !found->ifindex && found->identity != HOST)
            sender.identity = found->identity;
    }
    return sender;
}

/* Who is at the other end of a connection that is known, and came to it with the node's address; no identity: nobody else
 * than the node. */
static __always_inline __u32 masked_at(const struct packet *p, const struct track *t, const struct owner *other)
{
    __u32 identity;

    if (p->syn || !t->known || other->identity != HOST)
        return 0;
    identity = identity_at(t->known, !t->side);
    return identity == HOST ? 0 : identity;
}

/* Conntrack may have given these ends to somebody else meanwhile, whom no handshake tells from who had them: also where
 * the node itself, which no interface names, was asked by these. */
static __always_inline int may_be_anothers(const struct __sk_buff *skb, const struct packet *p, const struct track *t)
{
    if (p->protocol == IPPROTO_TCP)
        return 0;
    return identity_at(t->known, t->side) || (skb->ingress_ifindex && !ifindex_at(t->known, t->side));
}

/* True for a datagram to somebody who was given the node's address. Conntrack may have forgotten that before we do: then
 * it is for the node itself. */
static __always_inline int is_to_masked(const struct packet *p, const struct track *t)
{
    return p->protocol != IPPROTO_TCP && t->known && identity_at(t->known, !t->side);
}
