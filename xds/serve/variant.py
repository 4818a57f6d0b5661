"""How the protocol's variants differ for the subscription machine.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#grouping-resources-into-responses
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ..snapshot import CLUSTER, LISTENER


class Removals(Enum):
    """How a client learns that a resource is gone (#deleting-resources)."""

    NAMED = auto()  # by a field of their own
    IMPLIED = auto()  # by their absence from a response, which always has everything
    UNTOLD = auto()  # not at all: what refers to them changes instead


@dataclass(frozen=True, slots=True)
class Variant:
    """`in_turn`: a response makes all earlier ones stale, so the next one waits for the answer to the last."""

    in_turn: bool
    removals: Removals


INCREMENTAL = Variant(in_turn=False, removals=Removals.NAMED)
WHOLE_STATE = Variant(in_turn=True, removals=Removals.IMPLIED)
GROUPED = Variant(in_turn=True, removals=Removals.UNTOLD)


def state_of_the_world(type_url: str) -> Variant:
    """Listeners and clusters come complete in each response, other types as the incremental ones do."""
    return WHOLE_STATE if type_url in (LISTENER, CLUSTER) else GROUPED
