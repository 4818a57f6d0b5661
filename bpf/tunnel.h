/* Tunnels that end at this node, or at another like it: a socket of the kernel's own takes what is wrapped in UDP from anybody,
 * and lets it out as from whom it says (VXLAN, Geneve, FOU). Nothing here would judge it as its sender's. */
#pragma once
#include "kernel.h"
#include "steer.h"
#include "verdict.h"

#define REMOTE_NODE 6
#define KUBE_APISERVER 7
#define FOR_A_TUNNEL 1 /* encap_type of a socket that says no more; others (IPsec, L2TP) know who sends */

/* The fields of the kernel's struct, whose address must not be a socket's to the verifier. WireGuard's socket is alike, but asks
 * for nothing to be put together before it has been deciphered. */
static __always_inline int takes_from_anybody(struct bpf_sock *sk)
{
    const char *at = 0;
    void *gathers = 0;
    __u8 kind = 0;

    if (read_kernel(&at, sizeof(at), &sk) || READ(kind, at, UDP_SOCK_ENCAP_TYPE) || READ(gathers, at, UDP_SOCK_GRO_RECEIVE))
        return 1;
    return kind == FOR_A_TUNNEL && gathers;
}

/* True for a datagram to such a socket of this node. Those of other nodes have the same port. */
static __always_inline int is_for_tunnel(struct __sk_buff *skb, const struct packet *p, __u32 identity)
{
    struct bpf_sock *sk;
    int found;

    if (p->protocol != IPPROTO_UDP || p->error)
        return 0;
    if (identity != HOST && identity != REMOTE_NODE && identity != KUBE_APISERVER)
        return 0;
    sk = find_udp(skb, p);
    if (!sk)
        return 0;
    found = takes_from_anybody(sk);
    bpf_sk_release(sk);
    return found;
}
