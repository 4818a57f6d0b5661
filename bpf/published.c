/* Docker's proxy of published ports (userland-proxy) is a process of the node, which every policy lets in, whoever has asked
 * the proxy. So it connects to an endpoint only where the endpoint's policy lets anybody in, past Envoy.
 *
 * At the root of the cgroups, as the proxy is in whatever cgroup the engine is in.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include "verdict.h"

#define ANYONE 0
#define REFUSE 0
#define PROCEED 1

PINNED("array", __u32, __u64, published_node, 1, 0); /* the cookie of the node's network namespace */

/* A proxy elsewhere (of a Docker in a container) means other addresses. */
static __always_inline int is_proxy(struct bpf_sock_addr *ctx)
{
    char name[16] = {}, proxy[16] = "docker-proxy";
    __u32 zero = 0;
    __u64 *node = published_node.lookup(&zero);

    if (node && *node && *node != bpf_get_netns_cookie(ctx))
        return 0;
    if (bpf_get_current_comm(name, sizeof(name)))
        return 0;
#pragma unroll
    for (int i = 0; i < 13; i++)
        if (name[i] != proxy[i])
            return 0;
    return 1;
}

static __always_inline int may_connect(const struct address *address, __u8 protocol, __be16 port)
{
    struct owner *server = find_owner(address);
    struct endpoint *endpoint;
    struct verdict v = {};
    __u32 ifindex;

    if (!server || !server->ifindex)
        return PROCEED;
    ifindex = server->ifindex;
    endpoint = endpoints.lookup(&ifindex);
    if (!endpoint)
        return REFUSE;
    ask(&v, endpoint->ingress, ANYONE, protocol, port);
    return v.verdict == ALLOW ? PROCEED : REFUSE;
}

int published_connect4(struct bpf_sock_addr *ctx)
{
    struct address address;

    if (!is_proxy(ctx))
        return PROCEED;
    map_v4(&address, ctx->user_ip4);
    return may_connect(&address, ctx->protocol, ctx->user_port);
}

int published_connect6(struct bpf_sock_addr *ctx)
{
    struct address address;

    if (!is_proxy(ctx))
        return PROCEED;
    address.word[0] = ctx->user_ip6[0];
    address.word[1] = ctx->user_ip6[1];
    address.word[2] = ctx->user_ip6[2];
    address.word[3] = ctx->user_ip6[3];
    return may_connect(&address, ctx->protocol, ctx->user_port);
}
