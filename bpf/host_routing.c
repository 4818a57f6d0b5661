/* lockgate.c with eBPF host routing (host_routing.h), in its place where the node is told so. */
#define HOST_ROUTING
#include "lockgate.c"
