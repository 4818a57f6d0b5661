/* A packet on its way in is judged, remembered, and marked for its way: to its end, or to a proxy. */
#pragma once
#include "host.h"
#include "host_routing.h"
#include "pace.h"

/* Judges the connection of `p` and fills `next`, what is to be remembered. Returns 0 or the reason to drop. */
static __always_inline int judge_again(const struct packet *p, const struct track *t, const struct owner *src,
                                       const struct owner *dst, struct connection *next, struct verdict *v)
{
    struct connection *known = p->syn ? 0 : t->known;

    next->initiator = known ? known->initiator : t->side;
    next->service = known ? known->service : p->service;
    next->proxied = known ? known->proxied : 0;
    next->proxy_port = next->proxied ? known->proxy_port : 0;
    next->altered = known ? known->altered : 0;
    next->ended = ended_by(p, t, known ? known->ended : 0);
    next->seen = t->now;
    next->ifindex[0] = t->side ? dst->ifindex : src->ifindex;
    next->ifindex[1] = t->side ? src->ifindex : dst->ifindex;
    made_by(p, t, src->identity, dst->identity, next);
    if (next->initiator == t->side)
        return judge(src, dst, p->protocol, next->service, v);
    return judge(dst, src, p->protocol, next->service, v);
}

/* The mark names the endpoint that was asked, or else who asks: should routing lead elsewhere, to_pod there judges for
 * itself. */
static __always_inline __u32 judged_mark(__u32 ifindex)
{
    return ifindex << 16 | MARK_JUDGED;
}

static __always_inline int pass_judged(struct __sk_buff *skb, __u32 ifindex)
{
    if (ifindex)
        skb->mark = judged_mark(ifindex);
    else
        mark_sender(skb, MARK_SENT);
    return ALLOWED;
}

/* To the node itself, which looks for the socket. */
static __always_inline int to_stack(struct __sk_buff *skb)
{
    skb->mark = MARK_PROXY;
    return REDIRECTED;
}

/* A packet that a proxy's own connection to a server waits for. An error finds its socket by what it quotes. */
static __always_inline int to_asking(struct __sk_buff *skb, const struct packet *p)
{
    return p->error ? to_stack(skb) : steer(skb, p, 0, 0);
}

/* A packet of a connection that a proxy carries, from the end `side`. */
static __always_inline int to_proxy(struct __sk_buff *skb, const struct packet *p, const struct connection *c, __u8 side)
{
    int asks = c->initiator == side;

    if (p->error || (c->altered && !asks))
        return to_stack(skb);
    if (asks && p->protocol == IPPROTO_UDP && asks_too_often(skb))
        return DROP_OVERLOAD;
    return steer(skb, p, c->proxy_port, asks);
}

/* True for what is left of a TCP connection that went past the proxies. */
static __always_inline int is_direct(const struct packet *p, const struct track *t)
{
    return t->known && !p->syn && !p->error && !t->known->proxied && p->protocol == IPPROTO_TCP;
}

/* A live connection is no longer allowed, or not past the proxy. A listener, which knows nothing of it, resets who sent
 * this; a reset goes on to the other end. */
static __always_inline int revoke(struct __sk_buff *skb, const struct packet *p, const struct track *t, __u32 ifindex)
{
    int reason;

    if (p->reset) {
        reason = pass_last(t);
        return reason ? reason : pass_judged(skb, ifindex);
    }
    reason = to_listening(skb, p, reset_port());
    return reason == REDIRECTED ? REVOKED : reason;
}

/* True for a packet of a TCP connection that nobody knows, from a port whose clients come by way of a proxy: none of the
 * proxies waits for it, and who serves there asks nobody by that port. */
static __always_inline int is_past_proxy(const struct packet *p, const struct track *t, const struct owner *src,
                                         const struct owner *dst)
{
    struct verdict back = {};

    if (t->known || p->protocol != IPPROTO_TCP || p->syn || p->error)
        return 0;
    return !judge(dst, src, p->protocol, p->sport, &back) && back.verdict == REDIRECT;
}

/* Judges a packet on its way in, remembers its connection, and marks it for its way. */
static __always_inline int admit(struct __sk_buff *skb, const struct packet *p, struct track *t,
                                 const struct owner *src, const struct owner *dst, struct connection *next)
{
    struct verdict v = {};
    int reason = judge_again(p, t, src, dst, next, &v);

    if (is_translated(t) && dst->ifindex) {
        if (reason && p->syn)
            return reason;
        mark_sender(skb, MARK_LEFT); /* what is over to_pod resets */
        return ALLOWED;
    }
    /* An answer to a proxy's question that was forgotten. The host has sockets of its own. */
    if (v.verdict != REDIRECT && !t->known && dst->identity != HOST && awaited(skb, p))
        return to_asking(skb, p);
    if (reason == DROP_POLICY && is_direct(p, t))
        return revoke(skb, p, t, dst->ifindex);
    if (reason)
        return reason;
    if (v.verdict == REDIRECT) {
        if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
            return DROP_NOT_TCP;
        if (is_direct(p, t))
            return revoke(skb, p, t, dst->ifindex);
        next->proxied = 1;
        next->proxy_port = v.proxy_port;
    }
    if (v.verdict == ALLOW && is_past_proxy(p, t, src, dst))
        return p->reset ? DROP_UNPROXIED : revoke(skb, p, t, dst->ifindex);
    if (!next->proxied)
        keep_way(p, t, next);
    /* A connection that a proxy carries stays with it when the L7 rule goes. */
    connections.update(&t->key, next);
    if (next->proxied)
        return to_proxy(skb, p, next, t->side);
    if (!dst->ifindex)
        keep_sender(src->ifindex, src->identity);
    return pass_judged(skb, dst->ifindex);
}

/* True for an answer to a proxy's own question that comes from elsewhere: no to_pod saw the question leave, or it has the
 * ports of the client's leg by chance. Then only the client's leg is sent by the node. */
static __always_inline int is_for_proxy(struct __sk_buff *skb, const struct packet *p, const struct track *t)
{
    if (t->known && (!t->known->proxied || t->known->initiator == t->side))
        return 0;
    if (t->known && !skb->ingress_ifindex && !p->error)
        return 0;
    return awaited(skb, p);
}
