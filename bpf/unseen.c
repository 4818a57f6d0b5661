/* Pods that the agent has not put its programs at yet: nothing that they send gets past the node's first look at it, and
 * nothing goes out to them, whether an agent runs or not.
 *
 * Rules of nftables ask these programs of every packet that comes to the node or leaves it (redirect/kernel/unseen_table.py);
 * what they say 0 of is dropped. A pod is known by its address or by what its interface is called. On a bridge that is known
 * to be pods' newcomers.c has the last word.
 */
#include <uapi/linux/bpf.h>
#include "count.h"
#include "device.h"
#include "mark.h"

#define HEX_FOLLOWS 1 /* beside a name's length: from there on it is a number, as plugins give them */
#define LEAST_HEX 6

struct name {
    __u32 length;
    char text[NAME_SIZE];
};

PINNED("hash", __u32, __u32, seen_interfaces, 65536, 1);       /* by ifindex: with programs, or known to be no pod's */
PINNED("lpm_trie", struct name, __u32, pod_interfaces, 256, 1); /* what those begin with that are pods'; length << 8 | flags */
PINNED("lpm_trie", struct prefix, __u32, pod_prefixes, 1024, 1);

enum kind { OTHER, VETH, BRIDGE };

/* By its number, like the other one. */
static long (*load_relative)(const void *skb, __u32 offset, void *to, __u32 size, __u32 from) =
    (void *)BPF_FUNC_skb_load_bytes_relative;

static __always_inline enum kind kind_of(const char *device)
{
    char *operations = 0, *at = 0, name[8] = {};

    if (READ(operations, device, NET_DEVICE_RTNL_LINK_OPS) || !operations)
        return OTHER;
    if (READ(at, operations, RTNL_LINK_OPS_KIND) || !at || READ(name, at, 0))
        return OTHER;
    if (begins(name, "veth", 5))
        return VETH;
    return begins(name, "bridge", 7) ? BRIDGE : OTHER;
}

static __always_inline int is_hex_from(const char *name, __u32 from)
{
    __u32 digits = 0;

#pragma unroll
    for (int i = 0; i < NAME_SIZE; i++) {
        if (i < from)
            continue;
        if (!name[i])
            break;
        if (!is_digit(name[i]) && !(name[i] >= 'a' && name[i] <= 'f'))
            return 0;
        digits++;
    }
    return digits >= LEAST_HEX;
}

static __always_inline int is_called_like_pods(const char *device)
{
    struct name called = {.length = 8 * NAME_SIZE};
    __u32 *known;

    if (READ(called.text, device, NET_DEVICE_NAME))
        return 0;
    known = pod_interfaces.lookup(&called);
    if (!known)
        return 0;
    return !(*known & HEX_FOLLOWS) || is_hex_from(called.text, *known >> 8);
}

/* True for an address among those of pods. One that cannot be read is. */
static __always_inline int is_pods(struct __sk_buff *skb, int destination)
{
    struct prefix key = {.length = 128};
    __be32 v4;

    if (skb->protocol == BE16(0x0800)) {
        if (load_relative(skb, 12 + 4 * destination, &v4, sizeof(v4), BPF_HDR_START_NET))
            return 1;
        map_v4(&key.address, v4);
    } else if (load_relative(skb, 8 + 16 * destination, &key.address, sizeof(key.address), BPF_HDR_START_NET)) {
        return 1;
    }
    return !!pod_prefixes.lookup(&key);
}

/* True for what comes in or goes out by an interface that is a pod's by its name, or by the pod's address. Whatever is
 * neither veth nor bridge leads elsewhere. */
static __always_inline int is_unseen(struct __sk_buff *skb, int leaves)
{
    __u32 ifindex = skb->ifindex;
    char *device = 0;
    enum kind kind;

    if (seen_interfaces.lookup(&ifindex) || READ(device, skb, SK_BUFF_DEV))
        return 0;
    kind = kind_of(device);
    if (kind == OTHER)
        return 0;
    if (kind == BRIDGE && !leaves && came_through(skb))
        return 0; /* by a port with programs */
    if (kind == VETH && !above(device) && is_called_like_pods(device))
        return 1;
    return is_pods(skb, leaves);
}

/* Before anything is translated. */
int may_arrive(struct __sk_buff *skb)
{
    if (!is_unseen(skb, 0))
        return 1;
    count(DROP_UNSYNCED, FROM_POD);
    return 0;
}

/* When it is known to whom it goes. */
int may_depart(struct __sk_buff *skb)
{
    if (!is_unseen(skb, 1))
        return 1;
    count(DROP_UNSYNCED, TO_POD);
    return 0;
}
