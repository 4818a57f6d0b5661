/* Ports of a bridge of containers or pods that the agent has not put its programs at: nothing that comes in by one goes
 * anywhere, and nothing goes out by it, whether an agent runs or not.
 *
 * Rules of nftables ask these programs of every frame at a port of any bridge (redirect/kernel/bridge_table.py); what they say 0
 * of is dropped. What from_pod has let through has a mark.
 */
#include <uapi/linux/bpf.h>
#include "device.h"
#include "mark.h"
#include "pinned.h"

#define GUARDED 1    /* in engine_bridges; else it is known not to be */
#define LIKE_DOCKERS 1
#define LIKE_PODMANS 2
#define LIKE_PODS 4 /* of Kubernetes */

PINNED("hash", __u32, __u32, engine_bridges, 4096, 0);  /* by ifindex */
PINNED("array", __u32, __u32, engine_names, 1, 0);      /* a bridge that is called like these is guarded if nobody said not */
PINNED("hash", __u32, __u32, policed_ports, 65536, 1);  /* by ifindex; BPF_F_NO_PREALLOC */

/* A number and nothing else from there on. */
static __always_inline int ends_in_number(const char *name, int from)
{
    int digits = 0;

#pragma unroll
    for (int i = from; i < NAME_SIZE; i++) {
        if (!name[i])
            break;
        if (!is_digit(name[i]))
            return 0;
        digits++;
    }
    return digits;
}

/* docker0, or br- and the first half of a network's number. */
static __always_inline int is_like_dockers(const char *name)
{
    if (begins(name, "docker0", 8))
        return 1;
    if (!begins(name, "br-", 3))
        return 0;
#pragma unroll
    for (int i = 3; i < NAME_SIZE - 1; i++)
        if (!is_digit(name[i]) && !(name[i] >= 'a' && name[i] <= 'f'))
            return 0;
    return 1;
}

static __always_inline int is_like_podmans(const char *name)
{
    if (begins(name, "cni-podman", 10))
        return ends_in_number(name, 10);
    return begins(name, "podman", 6) && ends_in_number(name, 6);
}

static __always_inline int is_like_pods(const char *name)
{
    return begins(name, "cni0", 5) || begins(name, "cbr0", 5) || begins(name, "kube-bridge", 12);
}

/* Who knows neither is told 0: frames of other bridges, and of a bridge itself, are not ours. */
static __always_inline int is_on_guarded(struct __sk_buff *skb)
{
    char *port = 0, *bridge, name[NAME_SIZE] = {};
    __u32 zero = 0, ifindex = 0, *known, *names;

    if (READ(port, skb, SK_BUFF_DEV))
        return 0;
    bridge = above(port);
    if (!bridge || READ(ifindex, bridge, NET_DEVICE_IFINDEX))
        return 0;
    known = engine_bridges.lookup(&ifindex);
    if (known)
        return *known == GUARDED;
    names = engine_names.lookup(&zero);
    if (!names || !*names || READ(name, bridge, NET_DEVICE_NAME))
        return 0;
    return (*names & LIKE_DOCKERS && is_like_dockers(name)) || (*names & LIKE_PODMANS && is_like_podmans(name)) ||
           (*names & LIKE_PODS && is_like_pods(name));
}

/* By the port where it came in. */
int may_enter(struct __sk_buff *skb)
{
    return came_through(skb) || !is_on_guarded(skb);
}

/* By the port where it is about to go out. */
int may_leave(struct __sk_buff *skb)
{
    __u32 port = skb->ifindex;

    return policed_ports.lookup(&port) || !is_on_guarded(skb);
}
