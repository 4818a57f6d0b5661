/* Service addresses: a socket that asks for one is given a backend instead, once, before anything is sent.
 *
 *   connect(VIP) ──▶ service_connect: a backend ──▶ packets to the backend, which from_pod judges like all others
 *   sendmsg(VIP) ──▶ service_sendmsg: the socket's backend ──▶ likewise;  recvmsg() ◀── service_recvmsg: the VIP
 *   getpeername() ◀── service_getpeername: the VIP
 *
 * They hang at the root of the cgroups and act for the sockets of this node's network namespaces only.
 */
#include <uapi/linux/bpf.h>
#include "mark.h"
#include "service_maps.h"

#define ECONNREFUSED 111
#define REFUSE 0
#define PROCEED 1

enum choice { NO_SERVICE = 0, CHOSEN = 1, NOBODY = 2 };

static __always_inline int is_served(struct bpf_sock_addr *ctx)
{
    __u64 cookie = bpf_get_netns_cookie(ctx);

    if (ctx->sk && (ctx->sk->mark & MARK_MASK) == MARK_ENVOY)
        return 0; /* a proxy has judged who was asked, and nobody else */
    return !!service_clients.lookup(&cookie);
}

/* IPv4 and IPv4 in an IPv6 socket look the same. */
static __always_inline void read_peer(struct bpf_sock_addr *ctx, int v6, struct frontend *peer)
{
    if (v6) {
        peer->address.word[0] = ctx->user_ip6[0];
        peer->address.word[1] = ctx->user_ip6[1];
        peer->address.word[2] = ctx->user_ip6[2];
        peer->address.word[3] = ctx->user_ip6[3];
    } else {
        map_v4(&peer->address, ctx->user_ip4);
    }
    peer->port = ctx->user_port;
    peer->protocol = ctx->protocol;
    peer->zero = 0;
}

static __always_inline void write_peer(struct bpf_sock_addr *ctx, int v6, const struct backend *backend)
{
    if (v6) {
        ctx->user_ip6[0] = backend->address.word[0];
        ctx->user_ip6[1] = backend->address.word[1];
        ctx->user_ip6[2] = backend->address.word[2];
        ctx->user_ip6[3] = backend->address.word[3];
    } else {
        ctx->user_ip4 = backend->address.word[3];
    }
    ctx->user_port = backend->port;
}

static __always_inline int refuse(void)
{
    bpf_set_retval(-ECONNREFUSED);
    return REFUSE;
}

/* A backend by weight. The table may be replaced between two looks: then the new one is asked. */
static __always_inline int choose(const struct frontend *service, struct backend *backend)
{
    struct frontend address = {.address = service->address};
    struct table *table = service_frontends.lookup((struct frontend *)service);
    struct slot_key key;
    struct slot *slot;

    if (!table)
        return service_frontends.lookup(&address) ? NOBODY : NO_SERVICE;
    for (int look = 0; look < 2; look++) {
        if (!table || !table->slots)
            return NOBODY;
        key.table = table->number;
        key.slot = ((__u64)bpf_get_prandom_u32() * table->slots) >> 32;
        slot = service_slots.lookup(&key);
        if (slot) {
            *backend = bpf_get_prandom_u32() < slot->share ? slot->own : slot->other;
            return CHOSEN;
        }
        table = service_frontends.lookup((struct frontend *)service);
    }
    return NOBODY;
}

static __always_inline void flow_of(struct bpf_sock_addr *ctx, const struct frontend *peer, enum way way,
                                    struct flow_key *key)
{
    key->socket = bpf_get_socket_cookie(ctx);
    key->peer = *peer;
    key->way = way;
}

/* So that answers and getpeername show the service's address. */
static __always_inline void remember(struct bpf_sock_addr *ctx, const struct frontend *service,
                                     const struct backend *backend)
{
    struct frontend peer = {.address = backend->address, .port = backend->port, .protocol = service->protocol};
    struct backend shown = {.address = service->address, .port = service->port};
    struct flow_key key = {};

    flow_of(ctx, &peer, TO_SERVICE, &key);
    service_flows.update(&key, &shown);
}

static __always_inline int connect_to(struct bpf_sock_addr *ctx, int v6)
{
    struct frontend peer = {};
    struct backend backend = {};
    struct flow_key key = {};
    int choice;

    if (!is_served(ctx))
        return PROCEED;
    read_peer(ctx, v6, &peer);
    choice = choose(&peer, &backend);
    if (choice == NOBODY)
        return refuse();
    if (choice == CHOSEN) {
        remember(ctx, &peer, &backend);
        write_peer(ctx, v6, &backend);
    } else { /* the socket may have been connected to this peer as a backend before */
        flow_of(ctx, &peer, TO_SERVICE, &key);
        service_flows.delete(&key);
    }
    return PROCEED;
}

/* Without connect(): a socket stays with the backend it was given, while that serves. */
static __always_inline int send_to(struct bpf_sock_addr *ctx, int v6)
{
    struct serving serving = {};
    struct backend *known;
    struct flow_key key = {};
    int choice;

    if (!is_served(ctx))
        return PROCEED;
    read_peer(ctx, v6, &serving.frontend);
    flow_of(ctx, &serving.frontend, TO_BACKEND, &key);
    known = service_flows.lookup(&key);
    if (known) {
        serving.backend = *known;
        if (!service_backends.lookup(&serving))
            known = 0;
    }
    if (!known) {
        choice = choose(&serving.frontend, &serving.backend);
        if (choice == NOBODY)
            return refuse();
        if (choice == NO_SERVICE)
            return PROCEED;
        service_flows.update(&key, &serving.backend);
    }
    remember(ctx, &serving.frontend, &serving.backend);
    write_peer(ctx, v6, &serving.backend);
    return PROCEED;
}

/* What a socket is told of its peer. */
static __always_inline int show(struct bpf_sock_addr *ctx, int v6)
{
    struct frontend peer = {};
    struct flow_key key = {};
    struct backend *shown;

    if (!is_served(ctx))
        return PROCEED;
    read_peer(ctx, v6, &peer);
    flow_of(ctx, &peer, TO_SERVICE, &key);
    shown = service_flows.lookup(&key);
    if (shown)
        write_peer(ctx, v6, shown);
    return PROCEED;
}

int service_connect4(struct bpf_sock_addr *ctx)
{
    return connect_to(ctx, 0);
}

int service_connect6(struct bpf_sock_addr *ctx)
{
    return connect_to(ctx, 1);
}

int service_sendmsg4(struct bpf_sock_addr *ctx)
{
    return send_to(ctx, 0);
}

int service_sendmsg6(struct bpf_sock_addr *ctx)
{
    return send_to(ctx, 1);
}

int service_recvmsg4(struct bpf_sock_addr *ctx)
{
    return show(ctx, 0);
}

int service_recvmsg6(struct bpf_sock_addr *ctx)
{
    return show(ctx, 1);
}

int service_getpeername4(struct bpf_sock_addr *ctx)
{
    return show(ctx, 0);
}

int service_getpeername6(struct bpf_sock_addr *ctx)
{
    return show(ctx, 1);
}
