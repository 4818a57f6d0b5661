/* Where a packet begins at an interface without Ethernet headers: a tunnel's may still be preceded by those that it came in. */
#pragma once
#include "kernel.h"

#define FURTHEST 255 /* more than any header of a link; the verifier wants a bound */

/* The distance from the first byte that a program at tc sees; negative: it is not known. */
static __always_inline int network_at(const struct __sk_buff *skb)
{
    __u16 link, network;

    if (READ(link, skb, SK_BUFF_MAC_HEADER) || READ(network, skb, SK_BUFF_NETWORK_HEADER))
        return -1;
    network -= link;
    return network > FURTHEST ? -1 : network;
}
