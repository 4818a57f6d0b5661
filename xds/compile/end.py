"""One end of a connection as Envoy knows it: a text that the identity filter leaves, and policies are looked up by.

`SHARD:IDENTITY:in` is an endpoint of this node, `SHARD:IDENTITY:out` whoever is none; both numbers are decimal, and
SHARD says where the policies of the identity are (see shard.py). So `SHARD:` leads to them, `SHARD:IDENTITY:` tells who
it is wherever that is, the whole whose policy is enforced here, and `:out` that nobody's is. The module writes the same
(envoy/module/end.rs), and so do the address tables of remote Envoys (address_table.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ...policies.endpoint_policy import Direction
from .shard import shard_of

SOURCE, DESTINATION = "lockgate.source", "lockgate.destination"  # the keys of the filter state

# Whose policy judges in a direction, and who is at the other end.
OWN_END: Mapping[Direction, str] = MappingProxyType({Direction.EGRESS: SOURCE, Direction.INGRESS: DESTINATION})
PEER_END: Mapping[Direction, str] = MappingProxyType({Direction.EGRESS: DESTINATION, Direction.INGRESS: SOURCE})

ELSEWHERE = ":out"  # how every end ends that is no endpoint of this node


def end_text(identity: int, *, here: bool) -> str:
    """The end of an identity; `here`: it is an endpoint of this node."""
    return f"{wherever(identity)}{'in' if here else 'out'}"


def any_of_these(identities: Iterable[int]) -> str:
    """The RE2 expression of every end of these identities. It does not ask for shards: neighbours would have nothing in
    common then, and ten thousand identities make a program forty times as large."""
    return rf"[0-9]+:({'|'.join(map(str, identities))}):.*"


def wherever(identity: int) -> str:
    """What every end of an identity begins with, and no other end."""
    return f"{shard_of(identity)}:{identity}:"
