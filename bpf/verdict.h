/* The policy's answer about a connection: each local end is asked, and both must agree. */
#pragma once
#include "conntrack.h"

#define WHOLE_KEY (8 * (sizeof(struct policy_key) - sizeof(__u32)))
#define HOST 1 /* identity of the node itself */
#define OPEN_POLICY 1 /* the number of the policy that lets in anybody at everything */
#define WORLD_IPV4 9
#define WORLD_IPV6 10

struct verdict {
    __u8 verdict;
    __be16 proxy_port;
};

/* The stronger of two answers; two listeners for one connection are none. */
static __always_inline void combine(struct verdict *v, __u8 verdict, __be16 proxy_port)
{
    if (verdict > v->verdict) {
        v->verdict = verdict;
        v->proxy_port = proxy_port;
    } else if (verdict == REDIRECT && v->verdict == REDIRECT && proxy_port != v->proxy_port) {
        v->proxy_port = 0;
    }
}

static __always_inline void ask(struct verdict *v, __u32 policy_number, __u32 identity, __u8 protocol, __be16 service)
{
    struct policy_key key = {
        .length = WHOLE_KEY, .policy = policy_number, .identity = identity, .protocol = protocol, .service = service};
    struct policy_value *value;
    struct verdict answer = {};

    value = policy.lookup(&key);
    if (value)
        combine(&answer, value->verdict, value->proxy_port);
    key.identity = 0;
    value = policy.lookup(&key);
    if (value)
        combine(&answer, value->verdict, value->proxy_port);
    if (answer.verdict == NOTHING)
        answer.verdict = DENY;
    combine(v, answer.verdict, answer.proxy_port);
}

static __always_inline int lets_in_anybody(__u32 ifindex)
{
    struct endpoint *endpoint = endpoints.lookup(&ifindex);
    return endpoint && endpoint->ingress == OPEN_POLICY;
}

/* Whose policy is asked for this end; 0: nobody's. */
static __always_inline __u32 subject_of(const struct owner *owner)
{
    return owner->identity == HOST ? HOST_ENDPOINT : owner->ifindex;
}

/* Judges anew. `client` opened the connection to `server`; returns 0 and the verdict, or the reason to drop. */
static __always_inline int judge(const struct owner *client, const struct owner *server, __u8 protocol, __be16 service,
                                 struct verdict *v)
{
    struct endpoint *endpoint;
    __u32 ifindex;

    v->verdict = ALLOW;
    v->proxy_port = 0;
    ifindex = subject_of(client);
    if (ifindex) {
        endpoint = endpoints.lookup(&ifindex);
        if (endpoint)
            ask(v, endpoint->egress, server->identity, protocol, service);
        else if (client->identity != HOST)
            return DROP_UNSYNCED;
    }
    ifindex = subject_of(server);
    if (ifindex) {
        endpoint = endpoints.lookup(&ifindex);
        if (endpoint)
            ask(v, endpoint->ingress, client->identity, protocol, service);
        else if (server->identity != HOST)
            return DROP_UNSYNCED;
        /* Policies let the local host reach its endpoints; Envoy has no say, for it never sees that traffic. */
        if (client->identity == HOST && v->verdict == REDIRECT)
            v->verdict = ALLOW;
    }
    return v->verdict == DENY ? DROP_POLICY : 0;
}
