/* What comes to the node from elsewhere, and what its own processes send there. */
#pragma once
#include "admit.h"
#include "drops.h"

/* The verifier wants fields at constant distances from the context: clang must not keep the address of one. */
static __always_inline struct __sk_buff *same(struct __sk_buff *skb)
{
    asm volatile("" : "+r"(skb));
    return skb;
}

/* What is no endpoint's business is not ours: the node's own traffic, and what it routes elsewhere. */
static __always_inline int decide_from_uplink(struct __sk_buff *skb, struct packet *p)
{
    struct connection next = {.revision = current_revision()};
    struct owner *src, *dst;
    struct track t;

    track(p, &t);
    if (t.known && !p->syn && t.known->revision == next.revision && ifindex_at(t.known, !t.side) &&
        (!t.known->proxied || t.known->initiator == t.side) && !is_translated(&t)) {
        if (ifindex_at(t.known, t.side))
            return DROP_SPOOFED;
        touch(p, &t);
        if (t.known->proxied)
            return to_proxy(skb, p, t.known, t.side);
        return pass_judged(skb, ifindex_at(t.known, !t.side));
    }
    dst = find_owner(&p->dst);
    if (!dst || !dst->ifindex)
        return PASS_ELSEWHERE;
    if (is_for_proxy(skb, p, &t))
        return to_asking(skb, p);
    if (p->error && !t.known) {
        forget_quoted(p);
        track(p, &t);
    }
    src = find_owner(&p->src);
    if (!src || !src->identity)
        return DROP_ADDRESS;
    if (src->ifindex || src->identity == HOST)
        return DROP_SPOOFED;
    return admit(skb, p, &t, src, dst, &next);
}

/* What reaches the node from elsewhere. What is not read whole is left to to_pod. What is addressed to another interface's
 * hardware address is of one that lies above this one (macvlan), or of nobody here. */
static __always_inline int come_in(struct __sk_buff *skb, __u32 at)
{
    struct packet *p;
    int reason;

    if (skb->pkt_type == PACKET_OTHERHOST)
        return TC_ACT_UNSPEC;
    p = new_packet(0);
    if (!p)
        return TC_ACT_SHOT;
    reason = parse_received(skb, at, p);
    if (is_host_policed() && (reason || is_for_host(p)))
        reason = reason ? decide_unread(skb, at, p, reason, 0) : decide_host(skb, p, 0);
    else
        reason = reason ? PASS_ELSEWHERE : decide_from_uplink(same(skb), p);
    if (reason == ALLOWED || reason == PASS_ELSEWHERE)
        return TC_ACT_UNSPEC; /* to_pod counts it */
    return done(skb, p, reason, TO_POD);
}

/* What the node's own processes send elsewhere. */
static __always_inline int go_out(struct __sk_buff *skb, __u32 at)
{
    struct packet *p = new_packet(0);
    int reason;

    if (!p)
        return TC_ACT_SHOT;
    reason = skb->vlan_present ? DROP_UNSUPPORTED : parse_untagged(skb, at, p);
    if (reason)
        reason = decide_unread(skb, at, p, reason, 1);
    else
        reason = is_host(&p->src) ? decide_host(skb, p, 1) : PASS_ELSEWHERE;
    if (reason == ALLOWED || reason == PASS_ELSEWHERE)
        return TC_ACT_UNSPEC;
    return done(skb, p, reason, FROM_POD);
}
