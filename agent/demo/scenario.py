"""Which parts a demonstration has, and their pods, policies and requests together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import DemoError
from .grpc_part import GRPC
from .http_part import HTTP
from .kafka_part import KAFKA
from .part import DemoPod, DemoRequest, Part, PartName

PARTS: Mapping[PartName, Part] = MappingProxyType({part.name: part for part in (HTTP, GRPC, KAFKA)})


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is made and asked. A pod that several parts have is made once."""

    pods: tuple[DemoPod, ...]
    policies: tuple[str, ...]
    requests: tuple[DemoRequest, ...]

    @classmethod
    def of(cls, names: Collection[PartName] = ()) -> Scenario:
        """These parts, or all that are installed when none is named; always in the same order.

        Raises:
            DemoError: a part that was named needs packages that are not installed.
        """
        parts = [part for name, part in PARTS.items() if name in names or not (names or part.lacking)]
        for part in parts:
            if part.lacking:
                lacking = " and ".join(part.lacking)
                raise DemoError(f"the {part.name} part needs {lacking}: install lockgate[demo], or leave it out")
        pods = {pod.name: pod for part in parts for pod in part.pods}
        policies = tuple(policy for part in parts for policy in part.policies)
        return cls(tuple(pods.values()), policies, tuple(request for part in parts for request in part.requests))
