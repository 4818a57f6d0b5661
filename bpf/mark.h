/* The marks of packets, by which programs know what others of ours have done. */
#pragma once

#define MARK_PROXY 0x200  /* an ip rule delivers it locally */
#define MARK_JUDGED 0x400 /* from_pod asked both ends; the endpoint it asked is in the upper half */
#define MARK_LEFT 0x600   /* for the endpoint that it names, and left to to_pod there: see is_translated() */
#define MARK_SENT 0xc00   /* from_pod let it go to where no endpoint is; who sent it is in the upper half, as with MARK_LEFT */
#define MARK_TURNED 0x800 /* to_pod turned it back: from_loopback delivers it, and nobody else */
#define AS_NAMED (1 << 16) /* with MARK_TURNED: nobody has translated where it is to go */
#define MARK_ENVOY 0xa00  /* SO_MARK of the proxies' upstream sockets */
#define MARK_LOOK 0x1000  /* beside MARK_JUDGED: to_pod is to say whether it is as from_pod has seen it (host_routing.h) */
#define MARK_MASK 0xf00   /* pods cannot set marks: the kernel clears them on the way out of a namespace */

/* True for what another of our programs, below this one, has let through. Only this node writes marks. */
static __always_inline int came_through(const struct __sk_buff *skb)
{
    __u32 mark = skb->mark & MARK_MASK;

    return mark == MARK_JUDGED || mark == MARK_PROXY || mark == MARK_LEFT || mark == MARK_SENT;
}

/* The interface by which it came to the node, where a program of ours has let it through to be judged again; 0: not known.
 * After a bridge, or with another source, nothing else tells. */
static __always_inline __u32 sent_by(const struct __sk_buff *skb)
{
    __u32 mark = skb->mark & MARK_MASK;

    return mark == MARK_SENT || mark == MARK_LEFT ? skb->mark >> 16 : 0;
}

static __always_inline void mark_sender(struct __sk_buff *skb, __u32 mark)
{
    skb->mark = skb->ifindex < 1 << 16 ? skb->ifindex << 16 | mark : mark;
}
