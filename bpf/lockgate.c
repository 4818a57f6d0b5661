/* The two programs on the node's side of every endpoint's veth. What one decides the other relies on:
 *
 *   pod A ──▶ from_pod(A): egress of A and ingress of B ──▶ routing ──▶ to_pod(B) ──▶ pod B
 *                   └──▶ proxy (client leg) ──▶ proxy (server leg, A's address) ──▶ to_pod(B) ──▶ pod B
 *
 * The proxy is Envoy, or the agent for DNS. A server elsewhere (outside, or on the node itself) answers to A's address;
 * to_pod(A) turns such an answer back to the proxy's socket. Other traffic that reaches an endpoint from elsewhere is
 * judged in to_pod. A program for the uplink can later steer it to Envoy first: it needs judge(), steer() and the
 * connections map, nothing else.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#include "steer.h"
#include "verdict.h"

static __always_inline int done(int reason, enum hook hook)
{
    count(reason, hook);
    return reason <= REDIRECTED ? TC_ACT_OK : TC_ACT_SHOT;
}

/* Judges the connection of `p` and fills `next`, what is to be remembered. Returns 0 or the reason to drop. */
static __always_inline int judge_again(const struct packet *p, const struct track *t, const struct owner *src,
                                       const struct owner *dst, struct connection *next, struct verdict *v)
{
    struct connection *known = p->syn ? 0 : t->known;

    next->initiator = known ? known->initiator : t->side;
    next->service = known ? known->service : p->service;
    next->proxied = known ? known->proxied : 0;
    next->proxy_port = known ? known->proxy_port : 0;
    next->ended = ended_by(p, t, known ? known->ended : 0);
    next->seen = t->now;
    next->ifindex[0] = t->side ? dst->ifindex : src->ifindex;
    next->ifindex[1] = t->side ? src->ifindex : dst->ifindex;
    if (next->initiator == t->side)
        return judge(src, dst, p->protocol, next->service, v);
    return judge(dst, src, p->protocol, next->service, v);
}

/* The mark names the endpoint that was asked: should routing lead elsewhere, to_pod there judges for itself. */
static __always_inline __u32 judged_mark(__u32 ifindex)
{
    return ifindex << 16 | MARK_JUDGED;
}

static __always_inline int pass_judged(struct __sk_buff *skb, __u32 ifindex)
{
    skb->mark = ifindex ? judged_mark(ifindex) : 0;
    return ALLOWED;
}

/* A packet of a connection that a proxy carries. An error finds its socket by what it quotes. */
static __always_inline int to_proxy(struct __sk_buff *skb, const struct packet *p, __be16 proxy_port, int asks)
{
    if (!p->error)
        return steer(skb, p, proxy_port, 1, asks);
    skb->mark = MARK_PROXY;
    return REDIRECTED;
}

static __always_inline int decide_from_pod(struct __sk_buff *skb, struct packet *p)
{
    struct connection next = {.revision = current_revision()};
    struct owner *src, *dst;
    struct verdict v = {};
    struct track t;
    int reason;

    if (p->error == FROM_PATH)
        return DROP_SPOOFED; /* a pod is an end, never a router */
    track(p, &t);
    if (p->error && !t.known) {
        forget_quoted(p);
        track(p, &t);
    }
    if (t.known && !p->syn && t.known->revision == next.revision && ifindex_at(t.known, t.side) == skb->ifindex) {
        touch(p, &t);
        if (t.known->proxied)
            return to_proxy(skb, p, t.known->proxy_port, t.known->initiator == t.side);
        return pass_judged(skb, ifindex_at(t.known, !t.side));
    }
    if (!is_synced(skb->ifindex))
        return DROP_UNSYNCED;
    src = find_owner(&p->src);
    if (!src || src->ifindex != skb->ifindex)
        return DROP_SPOOFED;
    dst = find_owner(&p->dst);
    if (!dst || !dst->identity)
        return DROP_ADDRESS;
    reason = judge_again(p, &t, src, dst, &next, &v);
    if (reason)
        return reason;
    if (v.verdict == REDIRECT && p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
        return DROP_NOT_TCP;
    if (v.verdict == REDIRECT && t.known && !p->syn && !t.known->proxied && p->protocol == IPPROTO_TCP)
        return steer_tcp(skb, p, v.proxy_port, 0); /* was allowed past the proxy: the listener resets it */
    if (v.verdict == REDIRECT) {
        next.proxied = 1;
        next.proxy_port = v.proxy_port;
    }
    /* A connection that a proxy carries stays with it when the L7 rule goes. */
    connections.update(&t.key, &next);
    if (next.proxied)
        return to_proxy(skb, p, next.proxy_port, next.initiator == t.side);
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

/* REDIRECTED here means to turn the packet back. */
static __always_inline int decide_to_pod(struct __sk_buff *skb, struct packet *p)
{
    struct connection next = {.revision = current_revision()};
    int envoy = (skb->mark & MARK_MASK) == MARK_ENVOY;
    struct owner *src, *dst;
    struct verdict v = {};
    struct track t;
    int reason;

    track(p, &t);
    if (!envoy && is_for_proxy(skb, p, &t))
        return REDIRECTED;
    if (p->error && !t.known) {
        forget_quoted(p);
        track(p, &t);
    }
    if (t.known && !p->syn && t.known->revision == next.revision &&
        (!t.known->proxied || envoy || t.known->initiator != t.side)) {
        touch(p, &t);
        return ALLOWED;
    }
    if (!is_synced(skb->ifindex))
        return DROP_UNSYNCED;
    if (p->reset && !skb->ingress_ifindex)
        return ALLOWED; /* the node's own: how Envoy's listener ends a connection that got past it */
    src = find_owner(&p->src);
    dst = find_owner(&p->dst);
    if (!src || !src->identity || !dst || dst->ifindex != skb->ifindex)
        return DROP_ADDRESS;
    if (src->identity == HOST && skb->ingress_ifindex)
        return DROP_SPOOFED; /* claims to be this node, but was not sent by it */
    reason = judge_again(p, &t, src, dst, &next, &v);
    if (reason)
        return reason;
    if (envoy) {
        next.proxied = 1;
        if (v.verdict == REDIRECT)
            next.proxy_port = v.proxy_port;
    } else if (next.proxied ? next.initiator == t.side : v.verdict == REDIRECT) {
        return DROP_UNPROXIED;
    }
    connections.update(&t.key, &next);
    return ALLOWED;
}

/* tc ingress of the node's side: what the pod sends. */
int from_pod(struct __sk_buff *skb)
{
    struct packet p = {};
    int reason = parse(skb, &p);

    if (reason == PASS_LINK)
        return TC_ACT_OK;
    return done(reason ? reason : decide_from_pod(skb, &p), FROM_POD);
}

/* tc egress of the node's side: what the pod is about to receive. */
int to_pod(struct __sk_buff *skb)
{
    struct packet p = {};
    int reason;

    if (skb->mark == judged_mark(skb->ifindex))
        return done(ALLOWED, TO_POD);
    reason = parse(skb, &p);
    if (reason == PASS_LINK)
        return TC_ACT_OK;
    if (!reason)
        reason = decide_to_pod(skb, &p);
    if (reason != REDIRECTED)
        return done(reason, TO_POD);
    count(REDIRECTED, TO_POD);
    return turn_back(skb);
}
