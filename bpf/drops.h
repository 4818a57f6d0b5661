/* The last packets that each CPU dropped, for people (redirect/drop_log.py). Nothing is written for a packet that passes,
 * and the oldest record makes room, whether anybody reads or not. */
#pragma once
#include "count.h"
#include "maps.h"

#define DROPS_KEPT 128 /* a power of two */

struct drop {
    __u64 at; /* ns since boot */
    struct address src, dst;
    __be16 sport, dport;
    __u32 ifindex; /* or the number of a control group */
    __u8 protocol, reason, hook;
    __u8 zero[5];
};
PINNED("percpu_array", __u32, struct drop, drops, DROPS_KEPT, 0);
PINNED("percpu_array", __u32, __u32, drop_cursor, 1, 0); /* records written so far */

static __always_inline void keep_drop(const struct packet *p, int reason, enum hook hook, __u32 ifindex)
{
    __u32 index = 0, *cursor = drop_cursor.lookup(&index);
    struct drop *kept;

    if (!cursor)
        return;
    index = (*cursor)++ & (DROPS_KEPT - 1);
    kept = drops.lookup(&index);
    if (!kept)
        return;
    kept->src = p->src;
    kept->dst = p->dst;
    kept->sport = p->sport;
    kept->dport = p->dport;
    kept->ifindex = ifindex;
    kept->protocol = p->protocol;
    kept->reason = reason;
    kept->hook = hook;
    kept->at = bpf_ktime_get_ns();
}

/* Whether the packet goes on. */
static __always_inline int done_at(__u32 ifindex, const struct packet *p, int reason, enum hook hook)
{
    count(reason, hook);
    if (reason <= REDIRECTED || reason == REVOKED)
        return TC_ACT_OK;
    keep_drop(p, reason, hook, ifindex);
    return TC_ACT_SHOT;
}

static __always_inline int done(const struct __sk_buff *skb, const struct packet *p, int reason, enum hook hook)
{
    return done_at(skb->ifindex, p, reason, hook);
}
