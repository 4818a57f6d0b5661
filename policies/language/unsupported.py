"""What the language has and nothing on the node enforces yet. It is refused, never ignored.

The readers know all of it; taking an entry out of `UNSUPPORTED` is all it takes to accept a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType


class Feature(Enum):
    """A part of the language that can be switched off."""

    SERVER_NAMES = auto()
    TLS_CONTEXT = auto()
    KAFKA_RULES = auto()
    GRPC_RULES = auto()
    LISTENER = auto()
    AUTHENTICATION = auto()
    NODES = auto()
    GROUPS = auto()
    CIDR_GROUPS = auto()
    PROXYLIB = auto()


UNSUPPORTED: Mapping[Feature, str] = MappingProxyType(
    {
        Feature.LISTENER: "a listener of one's own is not supported: remove it and use rules",
        Feature.AUTHENTICATION: "mutual authentication is not enforced: remove authentication, or set mode: disabled",
        Feature.NODES: "peers by node label are not supported: use the entities host and remote-node",
        Feature.GROUPS: "cloud provider groups are not supported: name the addresses with a CIDR",
        Feature.CIDR_GROUPS: "CiliumCIDRGroups are not supported: write the CIDRs in the policy",
        Feature.PROXYLIB: "proxylib parsers (l7proto, l7) are not supported: use http, grpc, kafka or dns",
    }
)
