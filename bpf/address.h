/* An address as every map has it, and the protocols that more than one program knows. */
#pragma once

#undef __always_inline /* the user-space headers say plain `inline`, and bcc loads no functions of their own */
#define __always_inline inline __attribute__((always_inline))

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

#define BE16(x) ((__u16)__builtin_bswap16(x))
#define BE32(x) ((__u32)__builtin_bswap32(x))

struct address { /* IPv6, or IPv4 mapped into it */
    __be32 word[4];
};
struct prefix { /* a key: the longest one wins */
    __u32 length;
    struct address address;
};

static __always_inline void map_v4(struct address *address, __be32 v4)
{
    address->word[0] = 0;
    address->word[1] = 0;
    address->word[2] = BE32(0xffff);
    address->word[3] = v4;
}

static __always_inline int is_mapped_v4(const struct address *address)
{
    return !address->word[0] && !address->word[1] && address->word[2] == BE32(0xffff);
}

static __always_inline int is_unspecified(const struct address *address)
{
    return !address->word[0] && !address->word[1] && (!address->word[2] || is_mapped_v4(address)) && !address->word[3];
}

static __always_inline int is_link_local(const struct address *address)
{
    return (address->word[0] & BE32(0xffc00000)) == BE32(0xfe800000);
}

static __always_inline int is_multicast(const struct address *address)
{
    if (is_mapped_v4(address))
        return (address->word[3] & BE32(0xf0000000)) == BE32(0xe0000000);
    return (address->word[0] & BE32(0xff000000)) == BE32(0xff000000);
}

/* What whoever receives it takes for its own: nothing is forwarded there. The broadcast address of a link is known by its
 * owner, as the node's addresses are. */
static __always_inline int is_everybodys(const struct address *address)
{
    if (is_multicast(address))
        return 1;
    return is_mapped_v4(address) && (address->word[3] == BE32(0xffffffff) || !address->word[3]);
}

static __always_inline int same_address(const struct address *one, const struct address *other)
{
    return one->word[0] == other->word[0] && one->word[1] == other->word[1] && one->word[2] == other->word[2] &&
           one->word[3] == other->word[3];
}
