/* The node's own traffic over its uplinks, where a policy selects the node. What it exchanges with its endpoints is judged
 * at their interfaces. */
#pragma once
#include "steer.h"
#include "verdict.h"

static __always_inline int is_host(const struct address *address)
{
    struct owner *owner = find_owner(address);
    return owner && owner->identity == HOST;
}

/* To the node itself. Messages to everybody on the link that have no port are let be: routers, queries for groups, VRRP. */
static __always_inline int is_for_host(const struct packet *p)
{
    int ports = p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP;

    return is_host(&p->dst) || (ports && is_everybodys(&p->dst));
}

static __always_inline int is_host_policed(void)
{
    return is_synced(HOST_ENDPOINT);
}

static __always_inline struct packet reversed(const struct packet *p)
{
    struct packet other = {.src = p->dst, .dst = p->src, .sport = p->dport, .dport = p->sport, .v6 = p->v6};
    return other;
}

/* The state of the node's socket for what is `received`: a connection's, or else a listener's. 0: there is none. */
static __always_inline __u32 socket_state(struct __sk_buff *skb, const struct packet *received)
{
    struct bpf_sock *sk = find_tcp(skb, received);
    __u32 state = sk ? sk->state : 0;

    if (sk)
        bpf_sk_release(sk);
    return state;
}

enum beginning { NOT_KNOWN, TAKEN_UP, OPENED };

/* How the node came to a connection that nobody has seen begin: its socket has a listener beside it, or none. */
static __always_inline enum beginning beginning_of(struct __sk_buff *skb, const struct packet *p, int leaving)
{
    struct packet received = leaving ? reversed(p) : *p;
    __u32 state = socket_state(skb, &received);

    if (!state || state == STATE_LISTEN)
        return state ? TAKEN_UP : NOT_KNOWN;
    received.sport = 0; /* nobody's: only a listener can be found */
    return socket_state(skb, &received) == STATE_LISTEN ? TAKEN_UP : OPENED;
}

/* True for a connection from before the policy that the node itself has opened. */
static __always_inline int opened_here(struct __sk_buff *skb, const struct packet *p, int leaving)
{
    return beginning_of(skb, p, leaving) == OPENED;
}

/* A connection of a pod's with the node's address, which the node's connection tracking may have forgotten before us: then
 * this is for the node's own socket, should there be one. TCP begins anew with a SYN; of SCTP sockets nothing is known. */
static __always_inline int may_be_ours(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock *sk;

    if (p->protocol != IPPROTO_UDP || p->error)
        return p->protocol == IPPROTO_SCTP;
    sk = find_udp(skb, p);
    if (sk)
        bpf_sk_release(sk);
    return !!sk;
}

/* What leaves the node with its address, or comes to it. */
static __always_inline int decide_host(struct __sk_buff *skb, struct packet *p, int leaving)
{
    struct connection next = {.revision = current_revision()};
    struct owner node = {.identity = HOST}, everybody = {.identity = p->v6 ? WORLD_IPV6 : WORLD_IPV4};
    struct owner *src, *dst;
    struct verdict v = {};
    struct track t;
    int here;

    track(p, &t);
    if (p->error && !t.known) {
        forget_quoted(p);
        track(p, &t);
    }
    if (t.known && !leaving && ifindex_at(t.known, !t.side) && may_be_ours(skb, p))
        t.known = 0;
    if (t.known && !p->syn && (t.known->revision == next.revision || ifindex_at(t.known, leaving ? t.side : !t.side))) {
        touch(p, &t);
        return ALLOWED;
    }
    src = find_owner(&p->src);
    dst = find_owner(&p->dst);
    if (!src || !src->identity || !dst || !dst->identity)
        return DROP_ADDRESS;
    if (!leaving && is_everybodys(&p->dst))
        dst = &node;
    else if (leaving && dst->identity == HOST)
        dst = &everybody; /* a link's broadcast address */
    if (leaving && dst->ifindex)
        return ALLOWED; /* over a bridge: judged at the endpoint's interface */
    if (!leaving && (src->ifindex || src->identity == HOST))
        return DROP_SPOOFED;
    next.ended = ended_by(p, &t, t.known && !p->syn ? t.known->ended : 0);
    next.seen = t.now;
    next.service = p->service;
    next.initiator = t.side;
    if (leaving && p->reset && !skb->ingress_ifindex)
        return ALLOWED; /* how the node refuses a connection, or ends one */
    if (leaving && skb->ingress_ifindex) {
        /* A pod's, whose policy has judged it, with the node's address: the answers are no business of the node's. */
        if (t.side)
            next.ifindex[1] = skb->ingress_ifindex;
        else
            next.ifindex[0] = skb->ingress_ifindex;
        connections.update(&t.key, &next);
        return ALLOWED;
    }
    if (t.known && !p->syn) {
        next.initiator = t.known->initiator;
        next.service = t.known->service;
    } else if (p->protocol == IPPROTO_TCP && !p->syn && !p->error) {
        here = opened_here(skb, p, leaving);
        if (here != leaving) {
            next.initiator = !t.side;
            next.service = p->sport;
        }
    }
    if (next.initiator == t.side ? judge(src, dst, p->protocol, next.service, &v)
                                 : judge(dst, src, p->protocol, next.service, &v))
        return DROP_POLICY;
    connections.update(&t.key, &next);
    return ALLOWED;
}

/* Hop-by-hop, routing, fragment, authentication, destination: they could hide the port that a rule denies. */
static __always_inline int is_extension(const struct packet *p)
{
    return p->v6 && (p->protocol == 0 || p->protocol == 43 || p->protocol == 44 || p->protocol == 51 || p->protocol == 60);
}

/* A router asks who listens to which group (MLD, RFC 2710): behind a hop-by-hop header nothing but ICMPv6. */
static __always_inline int is_query(struct __sk_buff *skb, __u32 at, const struct packet *p)
{
    const __u8 *next = header(skb, at + sizeof(struct ipv6hdr), sizeof(*next));

    return p->v6 && p->protocol == 0 && next && *next == IPPROTO_ICMPV6;
}

/* False for protocols that have none. */
static __always_inline int hides_port(struct __sk_buff *skb, __u32 at, const struct packet *p, int reason)
{
    return reason != DROP_UNSUPPORTED || (is_extension(p) && !is_query(skb, at, p));
}

/* What cannot be read whole must not pass the node's policy; a protocol that no rule can name is left to its default. */
static __always_inline int decide_unread(struct __sk_buff *skb, __u32 at, const struct packet *p, int reason, int leaving)
{
    struct owner *src, *dst;
    struct verdict v = {};

    if (reason == PASS_LINK)
        return PASS_ELSEWHERE;
    if (!leaving && is_tagged_again(skb))
        return reason;
    if (is_everybodys(&p->dst))
        return leaving || !hides_port(skb, at, p, reason) ? PASS_ELSEWHERE : reason;
    if (!is_host(leaving ? &p->src : &p->dst))
        return PASS_ELSEWHERE;
    src = find_owner(&p->src);
    dst = find_owner(&p->dst);
    if (reason != DROP_UNSUPPORTED || is_extension(p) || !src || !dst)
        return reason;
    return judge(src, dst, p->protocol, 0, &v) ? reason : PASS_ELSEWHERE;
}
