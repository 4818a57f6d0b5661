/* How often an endpoint may ask a proxy by datagrams. All endpoints ask at one socket, and who fills it leaves no room to the
 * others; what is too much is dropped before it is there. Who asks by TCP waits (agent/dns/relay.py). */
#pragma once
#include "packet.h"

#define QUESTION_NS 1000000
#define MOST_AT_ONCE 256 /* as many as the DNS proxy has under way for one endpoint */

BPF_TABLE("lru_hash", __u32, __u64, due, 4096); /* by interface: when its next question is */

static __always_inline int asks_too_often(struct __sk_buff *skb)
{
    __u32 ifindex = skb->ifindex;
    __u64 now = bpf_ktime_get_ns(), *next = due.lookup(&ifindex), at = next && *next > now ? *next : now;

    if (skb->gso_size)
        return 1; /* many in one */
    if (at - now > MOST_AT_ONCE * QUESTION_NS)
        return 1;
    at += QUESTION_NS;
    if (next)
        *next = at;
    else
        due.update(&ifindex, &at);
    return 0;
}
