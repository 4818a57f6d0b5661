/* Who says on a link which address is whose: ARP and neighbour discovery. */
#pragma once
#include "mark.h"
#include "maps.h"

/* ARP and neighbour discovery: a pod speaks for nobody else. 0, or the reason to drop. */
static __always_inline int claim(struct __sk_buff *skb, const struct address *address)
{
    struct owner *owner = find_owner(address);

    if (owner && owner->ifindex == skb->ifindex)
        return 0;
    if (is_unspecified(address) || (is_link_local(address) && owner && owner->identity != HOST))
        return 0;
    return DROP_SPOOFED;
}

static __always_inline int decide_link(struct __sk_buff *skb, const struct packet *p)
{
    struct address target;
    __be32 sender;
    int reason;

    if (!p->v6) {
        if (bpf_skb_load_bytes(skb, ETH_HLEN + ARP_SENDER, &sender, sizeof(sender)) < 0)
            return DROP_MALFORMED;
        map_v4(&target, sender);
        return claim(skb, &target);
    }
    reason = claim(skb, &p->src);
    if (reason || p->service != BE16(NEIGHBOUR_ADVERTISEMENT))
        return reason;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr) + ND_TARGET, &target, sizeof(target)) < 0)
        return DROP_MALFORMED;
    return claim(skb, &target);
}

/* True for neighbour discovery with somebody beyond the link, to whom the node would forward it: it is a message like every
 * other. Endpoints may share a bridge; who gets it by way of the node drops it for its hops. */
static __always_inline int goes_beyond(const struct packet *p)
{
    struct owner *dst;

    if (!p->v6 || is_multicast(&p->dst) || is_link_local(&p->dst))
        return 0;
    dst = find_owner(&p->dst);
    return !dst || (!dst->ifindex && dst->identity != HOST);
}

/* True for ARP and neighbour discovery in the name of an endpoint, from a port of a bridge that nothing polices. */
static __always_inline int feigns(struct __sk_buff *skb, const struct packet *p)
{
    struct address named = p->src;
    struct owner *owner;
    __be32 v4;

    if ((skb->mark & MARK_MASK) == MARK_JUDGED)
        return 0;
    if (!p->v6) {
        if (bpf_skb_load_bytes(skb, ETH_HLEN + ARP_SENDER, &v4, sizeof(v4)) < 0)
            return 1;
        map_v4(&named, v4);
    }
    owner = find_owner(&named);
    if (owner && owner->ifindex)
        return 1;
    if (!p->v6 || p->service != BE16(NEIGHBOUR_ADVERTISEMENT))
        return 0;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr) + ND_TARGET, &named, sizeof(named)) < 0)
        return 1;
    owner = find_owner(&named);
    return owner && owner->ifindex;
}
