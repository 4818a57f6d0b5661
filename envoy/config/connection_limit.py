"""What one client may have of the Envoy that all share: so many connections, and, while the heap is short, no more than
its share of it. Counted by a filter of Lockgate's module, as Envoy's own limits count all clients together
(envoy/module/connection_limit.rs).
"""

from __future__ import annotations

from .messages import listener, protobuf
from .module_filter import module_filter

_NAME = "lockgate.connection_limit"
# Of the heap: from where on it is short, and what a client (an address) may hold of it then. A pod has two addresses:
# when one has filled it up to there in silence and the other takes its share, that is where Envoy itself begins to
# reset streams (see bootstrap), and others are served still.
SHORT, SHARE = 0.65, 0.15

# Bytes that one connection can hold, measured with ends that take nothing: its buffers and the heads of its requests,
# which for HTTP/2 are as many as it may have streams, and twice, as read and as written (docs/limits.md).
PLAIN, HTTP2 = 1_200_000, 30_000_000


def connection_limit(connections: int, heap: int) -> list[listener.Filter]:
    """The filter that refuses a client with so many connections already; none for 0. `heap`: bytes that Envoy's may
    have, 0 for any number."""
    if not connections:
        return []
    numbers = (connections, *((int(heap * SHORT), int(heap * SHARE), PLAIN, HTTP2) if heap else ()))
    limit = protobuf.StringValue(value=" ".join(map(str, numbers)))
    limited = module_filter(_NAME, protobuf.Any.pack(limit))
    return [listener.Filter(name=_NAME, typed_config=protobuf.Any.pack(limited))]
