"""The HTTP policies of the node, divided by whose they are.

Whatever changes in a resource, Envoy builds all of it anew. So each direction has many small resources instead of a
large one, and a change costs what is in the shards that it touches. An identity's policy is in the shard that its
number says; the identity filter computes the same (envoy/module/identity.rs), and Envoy runs for each request the
filter of that shard alone (envoy/config/policy_shard.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...policies.endpoint_policy import Direction

SHARDS = 64  # of each direction

_POLICIES: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.http.egress", Direction.INGRESS: "lockgate.http.ingress"}
)


def shard_of(identity: int) -> int:
    """Where the policy of an identity is, from 0 to SHARDS - 1."""
    return identity % SHARDS


def shard_name(direction: Direction, shard: int) -> str:
    """The resource's name: lockgate.http.ingress.17"""
    return f"{_POLICIES[direction]}.{shard}"
