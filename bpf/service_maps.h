/* The maps of service addresses. redirect/layout.py mirrors these structs. */
#pragma once
#include "address.h"
#include "pinned.h"

/* Whose sockets are served: the network namespaces of this node and of its endpoints, by cookie. */
PINNED("hash", __u64, __u32, service_clients, 65536, BPF_F_NO_PREALLOC);

/* A service's address with one of its ports. Port and protocol 0 stand for the address: no other port of it is served. */
struct frontend {
    struct address address;
    __be16 port;
    __u8 protocol;
    __u8 zero;
};
struct backend {
    struct address address;
    __be16 port;
    __u16 zero;
};

/* The table to choose from; without slots nobody is there to serve. A table never changes: another one takes its place. */
struct table {
    __u32 number, slots;
};
PINNED("hash", struct frontend, struct table, service_frontends, 65536, BPF_F_NO_PREALLOC);

/* Every slot is as likely as every other; within one, `own` has its share of 2^32 and `other` the rest (redirect/alias.py). */
struct slot_key {
    __u32 table, slot;
};
struct slot {
    __u32 share;
    struct backend own, other;
};
PINNED("hash", struct slot_key, struct slot, service_slots, 1048576, BPF_F_NO_PREALLOC);

/* Who serves at all, by weight: what is sent without a connection stays with its backend as long as that is here. */
struct serving {
    struct frontend frontend;
    struct backend backend;
};
PINNED("hash", struct serving, __u32, service_backends, 1048576, BPF_F_NO_PREALLOC);

/* What a socket was told: the backend for a service's address, and the address for a backend. */
enum way { TO_BACKEND = 0, TO_SERVICE = 1 };
struct flow_key {
    __u64 socket;
    struct frontend peer;
    __u32 way;
};
PINNED("lru_hash", struct flow_key, struct backend, service_flows, 131072, 0);
