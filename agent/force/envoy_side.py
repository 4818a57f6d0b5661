"""What Envoy is told of a world: about HTTP, TLS and Kafka together."""

from __future__ import annotations

from dataclasses import dataclass

from ...policies import World
from ...policies.endpoint_policy import Direction, RuleOrigin
from ...xds import (
    Enforced,
    Policed,
    Resource,
    Settled,
    Snapshot,
    kafka_policed_by,
    policed_by,
    tls_policed_by,
)
from .http_side import HttpResources, HttpSide
from .kafka_side import KafkaSide
from .tls_side import TlsResources, TlsSide


@dataclass(frozen=True, slots=True)
class Needs:
    """Which identities need a subtree in Envoy: in the filters for HTTP, in those for TLS and in that for Kafka."""

    envoy: Policed = frozenset()  # all that have a rule for Envoy
    tls: Policed = frozenset()  # those of them that have one about TLS
    kafka: Policed = frozenset()  # and about Kafka

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.envoy | other.envoy, self.tls | other.tls, self.kafka | other.kafka)

    @classmethod
    def of(cls, enforced: Enforced) -> Needs:
        """By the policies of these endpoints."""
        return cls(policed_by(enforced), tls_policed_by(enforced), kafka_policed_by(enforced))

    @classmethod
    def everyones(cls, enforced: Enforced) -> Needs:
        """Of these endpoints, whatever their policies are."""
        everyone = frozenset((endpoint.identity, direction) for endpoint, _ in enforced for direction in Direction)
        return cls(everyone, everyone, everyone)


@dataclass(frozen=True, slots=True)
class Told:
    """What Envoy is told about one world."""

    http: HttpResources
    tls: TlsResources
    kafka: tuple[Resource, ...]

    @property
    def snapshot(self) -> Snapshot:
        """As what the server publishes."""
        return self.http.snapshot().joined((*self.tls.resources, *self.kafka))

    @property
    def unexpressed(self) -> tuple[tuple[RuleOrigin, str], ...]:
        """The rules that cannot be told to Envoy."""
        return tuple({**self.http.refused, **self.tls.refused}.items())


class EnvoySide:
    """`told` is a pure function of its arguments, but for routes that Envoy has refused (HttpSide)."""

    def __init__(self, tls: TlsSide, kafka: KafkaSide) -> None:
        self._http = HttpSide()
        self._tls = tls
        self._kafka = kafka

    def told(self, enforced: Enforced, world: World, needs: Needs) -> Told:
        """What Envoy is to have: the policies of these endpoints, for those who need them."""
        return Told(
            self._http.resources(enforced, needs.envoy),
            self._tls.resources(enforced, needs.tls, world.tls),
            self._kafka.resources(enforced, needs.kafka),
        )

    def gives_way(self, answer: Settled) -> bool:
        """As HttpSide's: `told` says something else now."""
        return self._http.gives_way(answer)

    @property
    def problem(self) -> str:
        """A sentence while Envoy refuses what no policy is to blame for."""
        return self._http.problem
