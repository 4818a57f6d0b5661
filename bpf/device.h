/* The kernel's own structure of an interface. */
#pragma once
#include "address.h"
#include "kernel.h"

#define NAME_SIZE 16 /* IFNAMSIZ */

static __always_inline int is_digit(char each)
{
    return each >= '0' && each <= '9';
}

static __always_inline int begins(const char *name, const char *with, int length)
{
#pragma unroll
    for (int i = 0; i < length; i++)
        if (name[i] != with[i])
            return 0;
    return 1;
}

/* The master, as the bridge of a port; 0: there is none, or nobody knows. It would be the first above. */
static __always_inline char *above(const char *device)
{
    char *first = 0, *upper = 0;

    if (READ(first, device, NET_DEVICE_ADJ_LIST_UPPER) || first == device + NET_DEVICE_ADJ_LIST_UPPER)
        return 0;
    return READ(upper, first - NETDEV_ADJACENT_LIST, NETDEV_ADJACENT_DEV) ? 0 : upper;
}

/* True for a part of another interface, as a bridge's port. A master stands before what else is above. */
static __always_inline int has_master(const struct __sk_buff *skb)
{
    char *device, *first = 0;
    __u8 master = 0;

    if (READ(device, skb, SK_BUFF_DEV) || READ(first, device, NET_DEVICE_ADJ_LIST_UPPER) ||
        first == device + NET_DEVICE_ADJ_LIST_UPPER)
        return 0;
    return !READ(master, first - NETDEV_ADJACENT_LIST, NETDEV_ADJACENT_MASTER) && master;
}
