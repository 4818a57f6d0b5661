/* Processes of the node itself, by their control group: what their sockets send and are given.
 *
 *   socket ──▶ from_process: egress of its group ──▶ the node's stack;   the stack ──▶ to_process: ingress ──▶ socket
 *
 * They hang at each group that is an endpoint, and so see its descendants too: the deepest group that is one counts. To
 * others such a process is the node, whose addresses it has; what its group's policy would hand to a proxy is dropped.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#define AT_SOCKET
#include "drops.h"
#include "host.h"

#define DEEPEST 16 /* level of a control group that is looked at */

/* The endpoint that the socket's group is part of. */
static __always_inline struct endpoint *find_group(struct __sk_buff *skb, __u32 *number)
{
    struct endpoint *found;
    __u64 id;

    for (int level = DEEPEST; level > 0; level--) {
        id = bpf_skb_ancestor_cgroup_id(skb, level);
        if (!id)
            continue;
        *number = GROUP_ENDPOINT | (__u32)id;
        found = endpoints.lookup(number);
        if (found)
            return found;
    }
    return 0;
}

static __always_inline int is_loopback(const struct address *address)
{
    if (is_mapped_v4(address))
        return (address->word[3] & BE32(0xff000000)) == BE32(0x7f000000);
    return !address->word[0] && !address->word[1] && !address->word[2] && address->word[3] == BE32(1);
}

/* Who is at the other end; 0: nobody that anybody may talk to. */
static __always_inline __u32 identity_of(const struct __sk_buff *skb, const struct packet *p, int leaving)
{
    const struct address *address = leaving ? &p->dst : &p->src;
    struct owner *owner;

    if (is_loopback(address))
        return HOST;
    owner = find_owner(address);
    if (!owner)
        return 0;
    if (leaving && owner->identity == HOST && skb->ifindex != LOOPBACK) /* a link's broadcast address */
        return p->v6 ? WORLD_IPV6 : WORLD_IPV4;
    return owner->identity;
}

/* `leaving`: the socket has sent it. Which end of the connection it is. */
static __always_inline __u8 track_at_socket(const struct packet *p, struct track *t, int leaving)
{
    __u8 here;

    name(p, t);
    here = leaving ? t->side : !t->side;
    t->key.at_socket = 1 + here;
    find(p, t);
    return here;
}

/* `group` becomes the number of the endpoint that is asked. */
static __always_inline int decide_at_socket(struct __sk_buff *skb, struct packet *p, int leaving, __u32 *group)
{
    struct connection next = {.revision = current_revision(), .service = p->service};
    __u32 leaf = (__u32)bpf_skb_cgroup_id(skb);
    struct endpoint *endpoint;
    struct verdict v = {};
    struct track t;
    __u32 peer;
    __u8 here;

    here = track_at_socket(p, &t, leaving);
    if (p->error && !t.known) {
        forget_quoted(p);
        next.service = p->service;
        here = track_at_socket(p, &t, leaving);
    }
    if (t.known && !p->syn && t.known->revision == next.revision && identity_at(t.known, here) == leaf) {
        touch(p, &t);
        return ALLOWED;
    }
    if (t.known && identity_at(t.known, here) != leaf)
        t.known = 0; /* the port was another group's */
    endpoint = find_group(skb, group);
    if (!endpoint)
        return DROP_UNSYNCED;
    peer = identity_of(skb, p, leaving);
    if (!peer)
        return DROP_ADDRESS;
    next.initiator = t.side;
    if (t.known && !p->syn) {
        next.initiator = t.known->initiator;
        next.service = t.known->service;
    } else if (p->protocol == IPPROTO_TCP && !p->syn && !p->error && opened_here(skb, p, leaving) != leaving) {
        next.initiator = !t.side; /* one from before the policy */
        next.service = p->sport;
    }
    ask(&v, next.initiator == here ? endpoint->egress : endpoint->ingress, peer, p->protocol, next.service);
    if (v.verdict == REDIRECT && peer == HOST && next.initiator != here)
        v.verdict = ALLOW; /* as at every endpoint: the node never comes by way of a proxy */
    if (v.verdict != ALLOW)
        return leaving && p->reset && t.known ? pass_last(&t) : DROP_POLICY;
    next.ended = ended_by(p, &t, t.known && !p->syn ? t.known->ended : 0);
    next.seen = t.now;
    if (here) {
        next.ifindex[1] = *group;
        next.identity[1] = leaf;
    } else {
        next.ifindex[0] = *group;
        next.identity[0] = leaf;
    }
    connections.update(&t.key, &next);
    return ALLOWED;
}

/* 1 lets it pass (BPF_PROG_TYPE_CGROUP_SKB). */
static __always_inline int judge_at_socket(struct __sk_buff *skb, int leaving)
{
    struct packet packet = {}, *p = &packet; /* one program may be called within another on the same CPU */
    int reason = parse_untagged(skb, 0, p);
    __u32 group = 0;

    if (reason == PASS_LINK)
        reason = DROP_UNSUPPORTED; /* neighbour discovery is the stack's, and not a process's */
    if (!reason)
        reason = decide_at_socket(skb, p, leaving, &group);
    return done_at(group, p, reason, leaving ? FROM_POD : TO_POD) == TC_ACT_OK;
}

int from_process(struct __sk_buff *skb)
{
    return judge_at_socket(skb, 1);
}

int to_process(struct __sk_buff *skb)
{
    return judge_at_socket(skb, 0);
}
