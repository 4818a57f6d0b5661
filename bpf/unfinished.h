/* A checksum that is still to be written, by the interface that the packet leaves by: to where its sender says, who has more
 * than TCP's own ways to say so (PACKET_VNET_HDR). What is judged must not be overwritten later.
 * https://docs.kernel.org/networking/checksum-offloads.html */
#pragma once
#include "kernel.h"
#include "packet.h"

/* One look at all of these fields: each costs as much as a look-up in a map. */
#define FIRST_FIELD SK_BUFF_IP_SUMMED
#define AFTER_LAST_FIELD (SK_BUFF_MAC_HEADER + sizeof(__u16))
#define FIELD(type, offset) (*(const type *)((const char *)fields + ((offset) - FIRST_FIELD)))

/* True when it is written before the packet's own checksum, or in what has none that an interface writes. One behind it is of
 * a packet that this one carries. */
static __always_inline int is_overwritten(const struct __sk_buff *skb, const struct packet *p)
{
    __u64 fields[(AFTER_LAST_FIELD - FIRST_FIELD + 7) / 8];
    __u32 at;

    if (READ(fields, skb, FIRST_FIELD))
        return 1;
    if ((FIELD(__u8, SK_BUFF_IP_SUMMED) & SK_BUFF_IP_SUMMED_MASK) != SK_BUFF_IP_SUMMED_MASK)
        return 0; /* with all of its bits, CHECKSUM_PARTIAL */
    at = FIELD(__u16, SK_BUFF_CSUM_START) + FIELD(__u16, SK_BUFF_CSUM_OFFSET);
    return !p->checksum || at < (__u32)FIELD(__u16, SK_BUFF_MAC_HEADER) + p->checksum;
}
