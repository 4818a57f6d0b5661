/* What is remembered of a connection: that it was judged, when, who opened it, and whether a proxy carries it. */
#pragma once
#include "maps.h"

#define TCP_IDLE_SECONDS 8000 /* a little over two hours, the default TCP keep-alive */
#define OTHER_IDLE_SECONDS 60

struct track {
    struct connection_key key;
    struct connection *known; /* null: new, or silent for too long */
    __u32 now;
    __u8 side; /* the end that sent this packet */
};

/* The key by which both ends' packets find the connection. */
static __always_inline void name(const struct packet *p, struct track *t)
{
    __builtin_memset(&t->key, 0, sizeof(t->key));
    t->side = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (p->src.word[i] != p->dst.word[i]) {
            t->side = p->src.word[i] > p->dst.word[i];
            break;
        }
    }
    if (same_address(&p->src, &p->dst))
        t->side = p->sport > p->dport;
    t->key.address[0] = t->side ? p->dst : p->src;
    t->key.address[1] = t->side ? p->src : p->dst;
    t->key.port[0] = t->side ? p->dport : p->sport;
    t->key.port[1] = t->side ? p->sport : p->dport;
    t->key.protocol = p->protocol;
}

static __always_inline void find(const struct packet *p, struct track *t)
{
    t->now = bpf_ktime_get_coarse_ns() / 1000000000;
    t->known = connections.lookup(&t->key);
    if (t->known && t->now - t->known->seen > (p->protocol == IPPROTO_TCP ? TCP_IDLE_SECONDS : OTHER_IDLE_SECONDS))
        t->known = 0;
}

static __always_inline void track(const struct packet *p, struct track *t)
{
    name(p, t);
    find(p, t);
}

/* The local endpoint at one end. Not an array index: the verifier cannot see that `side` is 0 or 1. */
static __always_inline __u32 ifindex_at(const struct connection *c, __u8 side)
{
    return side ? c->ifindex[1] : c->ifindex[0];
}

static __always_inline __u32 identity_at(const struct connection *c, __u8 side)
{
    return side ? c->identity[1] : c->identity[0];
}

/* True for a packet of the client's with the ends of a connection that was translated on its way to the server. Whoever asks
 * the server by its own address may have the same, and conntrack, which must tell the two apart, gives it another port:
 * only in to_pod, behind that, is it known whose the packet is. */
static __always_inline int is_translated(const struct track *t)
{
    return t->known && t->known->altered && t->known->initiator == t->side;
}

/* The ends that have sent their last after this packet. */
static __always_inline __u8 ended_by(const struct packet *p, const struct track *t, __u8 before)
{
    if (!p->ends || p->error)
        return before;
    return p->reset ? 3 : before | 1 << t->side;
}

/* Writes only what changed: the cache line of a busy connection stays shared between cores. */
static __always_inline void touch(const struct packet *p, const struct track *t)
{
    __u8 ended = ended_by(p, t, t->known->ended);

    if (t->known->seen != t->now)
        t->known->seen = t->now;
    if (t->known->ended != ended)
        t->known->ended = ended;
}

/* A connection that is no longer allowed: one reset may go on to its other end, more could carry what they like. */
static __always_inline int pass_last(const struct track *t)
{
    if (t->known->ended == 3)
        return DROP_POLICY;
    t->known->ended = 3;
    return ALLOWED;
}

/* Who made the connection: proxies go by that as long as it lives, and a later agent asks for it. A packet that begins a
 * connection anew while the old one lives may be forged, and changes nothing. */
static __always_inline void made_by(const struct packet *p, const struct track *t, __u32 src, __u32 dst,
                                    struct connection *next)
{
    if (t->known && t->known->ended != 3) {
        next->identity[0] = t->known->identity[0];
        next->identity[1] = t->known->identity[1];
    } else if (p->syn) {
        next->identity[0] = t->side ? dst : src;
        next->identity[1] = t->side ? src : dst;
    }
}
