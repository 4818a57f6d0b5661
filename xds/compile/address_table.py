"""Who is who for an Envoy without the kernel's ipcache: a table of addresses, as two filters in front of the policies.

On a node with an agent a listener filter looks both ends of a connection up in the map that the kernel judges by. A
remote Envoy has no such map. There these filters leave the same filter state (see end.py), request by request, by the
longest prefix that holds the connection's source and the destination that the client asked for.
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/set_filter_state
https://www.envoyproxy.io/docs/envoy/v1.40.0/xds/type/matcher/v3/ip.proto
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType

from ...policies.endpoint_policy import Direction
from ...policies.identity import IPNetwork, Reserved
from ...policies.workload import IPAddress
from ..snapshot import FILTER_CONFIG, Resource
from ..wire import frame, text
from .end import OWN_END, end_text
from .matcher import DESTINATION_IP, DIRECT_SOURCE_IP, OnMatch, act, extension, longest_prefix

# The filter of each end: in the direction EGRESS the client is judged, in INGRESS the server.
TABLES: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.remote.source", Direction.INGRESS: "lockgate.remote.destination"}
)
_READS = MappingProxyType({Direction.EGRESS: DIRECT_SOURCE_IP, Direction.INGRESS: DESTINATION_IP})
_NOBODY = "nobody"  # of an end that nobody may talk to: it has no shard, and all is denied
_FILTERS = "envoy.extensions.filters.http."


def address_tables(ipcache: Mapping[IPNetwork, int], own: Set[IPAddress]) -> tuple[Resource, ...]:
    """Both filters. `ipcache` says whose each prefix is, as on the agent's node; `own` are the addresses of the
    workloads whose policies the remote node enforces.

    The agent's host is another node to a remote one, and what the remote host itself is nobody says.
    """
    groups: dict[tuple[int, bool], list[IPNetwork]] = {}
    for prefix, identity in ipcache.items():
        if identity == Reserved.HOST:
            identity = Reserved.REMOTE_NODE
        is_own = prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in own
        groups.setdefault((int(identity), is_own), []).append(prefix)
    return tuple(_table(direction, groups) for direction in Direction)


def _table(direction: Direction, groups: Mapping[tuple[int, bool], list[IPNetwork]]) -> Resource:
    entries = [
        (sorted(prefixes, key=lambda prefix: (prefix.version, prefix)), _leave(direction, *key))
        for key, prefixes in sorted(groups.items())
    ]
    body = frame(2, longest_prefix(_READS[direction], entries)) if entries else b""
    name = TABLES[direction]
    return Resource(FILTER_CONFIG, name, extension(name, f"{_FILTERS}composite.v3.Composite", body))


def _leave(direction: Direction, identity: int, is_own: bool) -> OnMatch:
    """The filter state of one end."""
    end = end_text(identity, here=is_own) if identity else _NOBODY
    config = frame(1, _value(OWN_END[direction], end))
    run = frame(1, extension("identity", f"{_FILTERS}set_filter_state.v3.Config", config))
    return act(extension("leave", f"{_FILTERS}composite.v3.ExecuteFilterAction", run))


def _value(key: str, value: str) -> bytes:
    """An envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue of plain text."""
    return text(1, key) + frame(2, frame(5, text(3, value))) + text(6, "envoy.string")
