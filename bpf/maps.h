/* The maps of the tc programs. redirect/layout.py mirrors these structs. */
#pragma once
#include "count.h"
#include "packet.h"
#include "pinned.h"

struct config {
    __u32 revision;    /* raised after every change; what was judged under another one is judged again */
    __be16 reset_port; /* of a listener on loopback, which resets what is given to it */
    __u8 asks_makers;  /* Envoy asks the connections below who came with the node's address */
    __u8 zero;
};
PINNED("array", __u32, struct config, config, 1, 0);

/* Who owns an address. The longest prefix wins and only its identity counts. */
struct owner {
    __u32 identity; /* 0: nobody may talk to it */
    __u32 ifindex;  /* of the local endpoint's interface, or 0 */
};
PINNED("lpm_trie", struct prefix, struct owner, ipcache, 524288, BPF_F_NO_PREALLOC);
/* Rises before and after every change of the ipcache, so it is odd meanwhile. Read in memory by the proxy. */
PINNED("array", __u32, __u64, ipcache_generation, 1, BPF_F_MMAPABLE);

/* Local endpoints by interface. No entry: not synced, everything is dropped. The node itself is HOST_ENDPOINT, and has no
 * entry unless a policy selects it. */
#define HOST_ENDPOINT 1 /* lo: no endpoint's interface */
#define GROUP_ENDPOINT 0x80000000 /* with the number of a control group: its processes, and no interface either */
struct endpoint {
    __u32 ingress, egress; /* numbers of the policies in force; endpoints with equal rules share one */
};
PINNED("hash", __u32, struct endpoint, endpoints, 65536, BPF_F_NO_PREALLOC);

/* One entry is one port prefix for one peer. Of all prefixes that match only the longest is seen, so it holds the
 * effect of the shorter ones too (redirect/planner.py). */
struct policy_key {
    __u32 length;
    __u32 policy;
    __u32 identity; /* 0: anyone */
    __u8 zero;
    __u8 protocol;
    __be16 service;
};
enum { NOTHING = 0, ALLOW = 1, REDIRECT = 2, DENY = 3 }; /* the greater one wins */
struct policy_value {
    __u8 verdict;
    __u8 zero;
    __be16 proxy_port; /* of REDIRECT; 0: no listener serves this, drop */
};
PINNED("lpm_trie", struct policy_key, struct policy_value, policy, 1048576, BPF_F_NO_PREALLOC);

/* Connections, both ways under one key: the greater end comes second. */
struct connection_key {
    struct address address[2];
    __be16 port[2];
    __u8 protocol;
    __u8 at_socket; /* 1, 2: what the processes at end 0 or 1 may; 0: what the packets between endpoints may */
    __u8 zero[2];
};
struct connection {
    __u32 revision;   /* of the config when it was judged */
    __u32 seen;       /* coarse seconds since boot */
    __u32 ifindex[2]; /* local endpoint at that end, or 0 */
    __u32 identity[2]; /* who was at that end when it was made; 0: not known. At a socket: its control group */
    __be16 service;   /* what was judged */
    union {
        __be16 proxy_port;
        __u8 straight; /* of one without a proxy: which ends' packets come out of the stack as sent (host_routing.h) */
    };
    __u8 initiator; /* end that opened it: 0 or 1 */
    __u8 proxied;   /* both legs, client to proxy and proxy to server, belong to the proxy's sockets */
    __u8 ended;     /* 1, 2: which end has sent its last; 3: nothing will follow */
    __u8 altered; /* its ends are conntrack's choice: see altered() and is_translated() */
};
PINNED("lru_hash", struct connection_key, struct connection, connections, 131072, 0);

/* The identities of endpoints that send to where none is, by interface: what was translated on its way may lead back to
 * one, and have the node's address by then. */
PINNED("lru_hash", __u32, __u32, senders, 4096, 0);

static __always_inline void keep_sender(__u32 ifindex, __u32 identity)
{
    __u32 *kept = senders.lookup(&ifindex);

    if (!kept || *kept != identity)
        senders.update(&ifindex, &identity);
}

static __always_inline struct owner *find_owner(const struct address *address)
{
    struct prefix key = {.length = 128, .address = *address};
    return ipcache.lookup(&key);
}

static __always_inline int is_synced(__u32 ifindex)
{
    return !!endpoints.lookup(&ifindex);
}

static __always_inline __be16 reset_port(void)
{
    __u32 zero = 0;
    struct config *found = config.lookup(&zero);
    return found ? found->reset_port : 0;
}

static __always_inline int asks_makers(void)
{
    __u32 zero = 0;
    struct config *found = config.lookup(&zero);
    return found && found->asks_makers;
}

static __always_inline __u32 current_revision(void)
{
    __u32 zero = 0;
    struct config *found = config.lookup(&zero);
    return found ? found->revision : 0;
}

/* The packet at hand, all zero. It is kept in a map because the verifier assumes nothing of a map's content: from here on
 * it follows one packet, and not one for each way through parse(). */
BPF_PERCPU_ARRAY(at_hand, struct packet, 2);

/* `beside`: what was at hand stays so. */
static __always_inline struct packet *new_packet(int beside)
{
    __u32 index = beside;
    struct packet *p = at_hand.lookup(&index);
    if (p)
        __builtin_memset(p, 0, sizeof(*p));
    return p;
}
