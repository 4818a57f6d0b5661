/* The two programs on the node's side of every endpoint's veth, the two on the node's uplinks, the two on the bridges of
 * container engines, and the one on lo. What one decides the others rely on:
 *
 *   pod A ──▶ from_pod(A): egress of A and ingress of B ──▶ routing ──▶ to_pod(B) ──▶ pod B
 *                   └──▶ proxy (client leg) ──▶ proxy (server leg, A's address) ──▶ to_pod(B) ──▶ pod B
 *   outside ──▶ from_uplink: ingress of B, and then as above;  the node ──▶ to_uplink: its own egress ──▶ outside
 *
 * The proxy is Envoy, or the agent for DNS. A server elsewhere (outside, or on the node itself) answers to A's address;
 * from_uplink hands such an answer to the proxy's socket, and to_pod(A) turns back what came another way. What else
 * reaches an endpoint past from_uplink, as what was sent to a published port and translated, is judged in to_pod. Nothing
 * is handed to a socket on its way out: to_pod turns it back to lo, and from_loopback does.
 * from_bridge lets up what from_pod has let through, and to_bridge down what goes to an endpoint: nobody else is there yet.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#include "admit.h"
#include "drops.h"
#include "link.h"
#include "masked.h"
#include "network.h"
#include "tunnel.h"
#include "unfinished.h"
#include "uplink.h"

static __always_inline int decide_from_pod(struct __sk_buff *skb, struct packet *p)
{
    struct connection next = {.revision = current_revision()};
    struct owner *src, *dst, node = {.identity = HOST}, other = {};
    struct track t;
    int reason;

    if (p->error == FROM_PATH)
        return DROP_SPOOFED; /* a pod is an end, never a router */
    track(p, &t);
    if (p->error && !t.known) {
        forget_quoted(p);
        track(p, &t);
    }
    if (is_to_masked(p, &t) && may_be_ours(skb, p))
        t.known = 0;
    if (t.known && !p->syn && t.known->revision == next.revision && ifindex_at(t.known, t.side) == skb->ifindex &&
        !is_translated(&t)) {
        touch(p, &t);
        if (t.known->proxied)
            return to_proxy(skb, p, t.known, t.side);
        pass_judged(skb, ifindex_at(t.known, !t.side));
        choose_way(skb, p, t.known, t.side);
        return ALLOWED;
    }
    if (!is_synced(skb->ifindex))
        return DROP_UNSYNCED;
    src = find_owner(&p->src);
    if (!src || src->ifindex != skb->ifindex)
        return DROP_SPOOFED;
    dst = find_owner(&p->dst);
    if (!dst || !dst->identity)
        return DROP_ADDRESS;
    if (is_everybodys(&p->dst))
        dst = &node;
    if (is_for_tunnel(skb, p, dst->identity))
        return DROP_UNSUPPORTED;
    other.identity = masked_at(p, &t, dst);
    if (other.identity) {
        dst = &other;
        next.revision = t.known->revision; /* its own next packet tells who it is now */
    }
    reason = admit(skb, p, &t, src, dst, &next);
    if (reason == ALLOWED)
        choose_way(skb, p, &next, t.side);
    return reason;
}

/* True for a packet of the endpoint at `ifindex`, by its address, that neither it nor a proxy has sent. */
static __always_inline int is_spoofed(struct __sk_buff *skb, __u32 ifindex)
{
    return ifindex && skb->ingress_ifindex && skb->ingress_ifindex != ifindex && sent_by(skb) != ifindex;
}

/* True for a client's packet that came past the proxy which is to have it: its address was translated on the way. What
 * the node sends itself was not. */
static __always_inline int may_turn_back(const struct __sk_buff *skb, const struct packet *p)
{
    return p->protocol == IPPROTO_TCP && skb->ingress_ifindex;
}

/* True for what may be an answer over a connection that was forgotten: on the node only proxies, which are root's, send with
 * an address of somebody else's, and what they begin themselves has their mark. With the node's own address they send, too,
 * as do the node's servers, of whose connections the sockets tell who began them. */
static __always_inline int may_answer(struct __sk_buff *skb, const struct packet *p, const struct track *t,
                                      const struct owner *src)
{
    int is_tcp = p->protocol == IPPROTO_TCP;

    if (t->known || p->error || skb->ingress_ifindex || (skb->mark & MARK_MASK) == MARK_ENVOY)
        return 0;
    if (is_tcp ? p->syn : p->protocol != IPPROTO_UDP)
        return 0;
    if (src->identity == HOST)
        return !is_tcp || beginning_of(skb, p, 1) == TAKEN_UP;
    return !bpf_get_socket_uid(skb);
}

/* A datagram that no proxy needs to answer begins something. The node may send to whom it likes: its own is none but to
 * whoever would have had to ask a proxy. */
static __always_inline int is_answer(const struct packet *p, const struct owner *src, const struct verdict *v)
{
    return p->protocol == IPPROTO_TCP || v->verdict == REDIRECT || (v->verdict != ALLOW && src->identity != HOST);
}

/* REDIRECTED and REVOKED here mean to turn the packet back. */
static __always_inline int decide_to_pod(struct __sk_buff *skb, struct packet *p)
{
    struct connection next = {.revision = current_revision()};
    int envoy = (skb->mark & MARK_MASK) == MARK_ENVOY;
    struct owner *src, *dst, sender = {};
    struct connection forgotten = {};
    struct verdict v = {};
    struct track t;
    int reason, answers;

    if ((skb->mark & MARK_MASK) == MARK_TURNED)
        return DROP_UNPROXIED; /* nobody was at lo */
    track(p, &t);
    if (!envoy && is_for_proxy(skb, p, &t))
        return REDIRECTED;
    if (p->error && !t.known) {
        forget_quoted(p);
        track(p, &t);
    }
    if (t.known && !p->syn && t.known->revision == next.revision && ifindex_at(t.known, !t.side) == skb->ifindex &&
        !may_be_anothers(skb, p, &t)) {
        int passes = !t.known->proxied || envoy || t.known->initiator != t.side;
        if (passes || may_turn_back(skb, p)) {
            if (is_spoofed(skb, ifindex_at(t.known, t.side)))
                return DROP_SPOOFED;
            touch(p, &t);
            return passes ? ALLOWED : REDIRECTED;
        }
    }
    if (!is_synced(skb->ifindex))
        return DROP_UNSYNCED;
    if (p->reset && !skb->ingress_ifindex)
        return ALLOWED; /* the node's own: how Envoy's listener ends a connection that got past it */
    src = find_owner(&p->src);
    dst = find_owner(&p->dst);
    if (!src || !src->identity || !dst || dst->ifindex != skb->ifindex)
        return DROP_ADDRESS;
    if (src->identity == HOST && skb->ingress_ifindex) {
        sender = masked(skb, p);
        /* It claims to be this node, but was not sent by it. */
        if (!sender.identity && (sender.ifindex || !lets_in_anybody(skb->ifindex)))
            return DROP_SPOOFED;
        src = &sender;
        if (p->protocol != IPPROTO_TCP && !p->error && !is_tracked_answer(skb))
            t.known = 0; /* it may be anybody's */
    }
    if (is_spoofed(skb, src->ifindex))
        return DROP_SPOOFED;
    forgotten.initiator = !t.side;
    forgotten.service = p->sport;
    forgotten.proxied = p->protocol == IPPROTO_TCP && src->identity != HOST; /* stays so when the L7 rule goes */
    answers = may_answer(skb, p, &t, src);
    if (answers) {
        t.known = &forgotten;
        reason = judge_again(p, &t, src, dst, &next, &v);
        answers = is_answer(p, src, &v);
        if (!answers)
            t.known = 0;
    }
    if (!answers)
        reason = judge_again(p, &t, src, dst, &next, &v);
    if (sender.identity) {
        /* The address is not its alone, and another connection with the same ends may have been somebody else's. */
        if (p->syn || p->protocol != IPPROTO_TCP) {
            next.identity[0] = t.side ? dst->identity : sender.identity;
            next.identity[1] = t.side ? sender.identity : dst->identity;
        }
        if (next.proxied && next.initiator == t.side && identity_at(&next, t.side) != sender.identity)
            return DROP_POLICY;
        if (!reason && v.verdict == REDIRECT && !asks_makers())
            return DROP_NO_PROXY; /* one of an earlier version would take it for the node */
    }
    if (!envoy && is_direct(p, &t) && may_turn_back(skb, p) && (reason == DROP_POLICY || v.verdict == REDIRECT))
        return p->reset ? pass_last(&t) : REVOKED;
    if (reason)
        return reason;
    if (envoy) {
        next.proxied = 1;
        if (p->protocol == IPPROTO_TCP)
            next.altered = altered(skb, p);
        if (next.altered == LED_ELSEWHERE && v.verdict == REDIRECT)
            return DROP_UNPROXIED; /* the proxy has judged a connection to somebody else */
        if (v.verdict == REDIRECT)
            next.proxy_port = v.proxy_port;
    } else if (answers && v.verdict == REDIRECT) {
        next.proxied = 1;
        next.proxy_port = v.proxy_port;
    } else if (next.initiator == t.side && skb->ingress_ifindex) {
        next.altered = LED_HERE;
    }
    if (!envoy && (next.proxied ? next.initiator == t.side : v.verdict == REDIRECT)) {
        if (!may_turn_back(skb, p))
            return DROP_UNPROXIED;
        if (!next.proxied)
            next.proxy_port = v.proxy_port;
        next.proxied = 1;
        connections.update(&t.key, &next);
        return REDIRECTED;
    }
    connections.update(&t.key, &next);
    return ALLOWED;
}

/* What to_pod has turned back, with what it has remembered of the connection. */
static __always_inline int decide_from_loopback(struct __sk_buff *skb, const struct packet *p)
{
    __u32 turned = skb->mark;
    struct track t;
    int reason;

    track(p, &t);
    if (!t.known)
        return to_asking(skb, p);
    if (t.known->proxied) {
        reason = to_proxy(skb, p, t.known, t.side);
        if (reason == REDIRECTED && t.known->initiator == t.side && disguise(skb, p, turned))
            return DROP_MALFORMED;
        return reason;
    }
    if (!is_direct(p, &t))
        return DROP_UNPROXIED;
    reason = to_listening(skb, p, reset_port());
    if (reason != REDIRECTED)
        return reason;
    return disguise(skb, p, turned) ? DROP_MALFORMED : REVOKED;
}

/* tc ingress of the node's side: what the pod sends. */
int from_pod(struct __sk_buff *skb)
{
    struct packet *p = new_packet(0);
    int reason;

    if (!p)
        return TC_ACT_SHOT;
    reason = parse(skb, p);
    if ((!reason || reason == PASS_LINK) && is_overwritten(skb, p))
        reason = DROP_MALFORMED;
    if (reason == PASS_LINK && goes_beyond(p))
        reason = 0;
    if (reason == PASS_LINK) {
        reason = decide_link(skb, p);
        if (reason)
            return done(skb, p, reason, FROM_POD);
        skb->mark = judged_mark(0);
        return TC_ACT_OK;
    }
    reason = done(skb, p, reason ? reason : decide_from_pod(skb, p), FROM_POD);
    if (reason == TC_ACT_OK && (skb->mark & MARK_MASK) == MARK_PROXY && take_up(skb))
        return TC_ACT_SHOT;
    return onward(skb, p, reason);
}

/* tc ingress of an uplink. */
int from_uplink(struct __sk_buff *skb)
{
    int action;

    if (came_through(skb)) /* from_pod, or another uplink */
        return TC_ACT_UNSPEC;
    action = come_in(skb, ETH_HLEN);
    if (action == TC_ACT_OK && (skb->mark & MARK_MASK) == MARK_PROXY && has_master(skb) && take_up(skb))
        return TC_ACT_SHOT;
    return action;
}

/* tc egress of an uplink. */
int to_uplink(struct __sk_buff *skb)
{
    return is_host_policed() ? go_out(skb, ETH_HLEN) : TC_ACT_UNSPEC;
}

/* The same of an uplink without Ethernet headers. */
int from_tunnel(struct __sk_buff *skb)
{
    int at;

    if (came_through(skb))
        return TC_ACT_UNSPEC;
    at = network_at(skb);
    return at < 0 ? TC_ACT_SHOT : come_in(skb, at);
}

int to_tunnel(struct __sk_buff *skb)
{
    int at;

    if (!is_host_policed())
        return TC_ACT_UNSPEC;
    at = network_at(skb);
    return at < 0 ? TC_ACT_SHOT : go_out(skb, at);
}

/* tc ingress of an engine's bridge: what comes up from its ports. A container that the agent has not heard of has a port
 * without from_pod, and says nothing to anybody beyond the bridge. */
int from_bridge(struct __sk_buff *skb)
{
    struct packet *p;
    int reason;

    if (came_through(skb))
        return TC_ACT_UNSPEC;
    p = new_packet(0);
    if (!p)
        return TC_ACT_SHOT;
    reason = parse(skb, p);
    if (reason != PASS_LINK)
        return done(skb, p, DROP_UNSYNCED, FROM_POD);
    return feigns(skb, p) ? done(skb, p, DROP_SPOOFED, FROM_POD) : TC_ACT_UNSPEC;
}

/* tc egress of an engine's bridge: what goes down to its ports. */
int to_bridge(struct __sk_buff *skb)
{
    struct packet *p = new_packet(0);
    struct owner *dst;

    if (!p)
        return TC_ACT_SHOT;
    if (parse(skb, p) == PASS_LINK)
        return TC_ACT_UNSPEC;
    dst = find_owner(&p->dst);
    return dst && dst->ifindex ? TC_ACT_UNSPEC : done(skb, p, DROP_UNSYNCED, TO_POD);
}

/* tc egress of the node's side: what the pod is about to receive. */
int to_pod(struct __sk_buff *skb)
{
    __u32 judged = judged_mark(skb->ifindex);
    int reason, looked_at = is_looked_at(skb, judged);
    struct packet *p;

    if (skb->mark == judged) {
        count(ALLOWED, TO_POD);
        return TC_ACT_OK;
    }
    p = new_packet(looked_at);
    if (!p)
        return TC_ACT_SHOT;
    reason = parse(skb, p);
    if (looked_at) {
        if (!reason)
            look(skb, p);
        return done(skb, p, ALLOWED, TO_POD);
    }
    if (reason == PASS_LINK)
        return skb->ingress_ifindex && feigns(skb, p) ? done(skb, p, DROP_SPOOFED, TO_POD) : TC_ACT_OK;
    if (!reason)
        reason = decide_to_pod(skb, p);
    if (reason != REDIRECTED && reason != REVOKED)
        return done(skb, p, reason, TO_POD);
    if (reason == REDIRECTED) /* the other is counted at lo */
        count(REDIRECTED, TO_POD);
    return turn_back(skb);
}

/* tc ingress of lo: hands to the proxies' sockets what to_pod has turned back. */
int from_loopback(struct __sk_buff *skb)
{
    struct packet *p;
    int reason;

    if ((skb->mark & MARK_MASK) != MARK_TURNED)
        return TC_ACT_UNSPEC;
    p = new_packet(0);
    if (!p)
        return TC_ACT_SHOT;
    reason = parse(skb, p);
    if (!reason)
        reason = decide_from_loopback(same(skb), p);
    else if (reason == PASS_LINK)
        reason = DROP_UNSUPPORTED;
    return reason == REDIRECTED ? TC_ACT_OK : done(skb, p, reason, TO_POD);
}
