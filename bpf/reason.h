/* What became of a packet; the numbers index the counters (redirect/reason.py). */
#pragma once

enum reason {
    ALLOWED = 0,
    REDIRECTED = 1,       /* handed to a proxy: Envoy, or the agent for DNS */
    DROP_POLICY = 2,      /* no rule allows it, or one denies it */
    DROP_NO_PROXY = 3,    /* an L7 rule covers it and its proxy does not listen */
    DROP_NOT_TCP = 4,     /* an L7 rule covers it and no proxy takes its protocol */
    DROP_UNPROXIED = 5,   /* an L7 rule covers it and it came round the proxy */
    DROP_SPOOFED = 6,     /* the source is not the endpoint's */
    DROP_UNSYNCED = 7,    /* the endpoint has no policy yet, or the container or pod is not known */
    DROP_ADDRESS = 8,     /* nobody may talk to this address: loopback, another endpoint's, a service's own */
    DROP_FRAGMENT = 9,
    DROP_UNSUPPORTED = 10, /* a protocol that no policy can name, an IPv6 extension header, a VLAN tag, a tunnel of the node's */
    DROP_MALFORMED = 11,
    REVOKED = 12, /* of a live connection that is no longer allowed, or not past the proxy: its sender is reset */
    DROP_OVERLOAD = 13, /* the endpoint asks the DNS proxy more than its share */
    REASONS = 14,
    PASS_LINK,      /* not a reason: ARP and neighbour discovery */
    PASS_ELSEWHERE, /* likewise: no endpoint's traffic */
};
