"""Compiles the node's Kafka rules into the configuration of the Kafka filter in Envoy's dynamic module.

One resource for both directions, because one filter judges both: every request is read once. The filter chooses the
rules itself, by own address, destination port and the peer's identity, at every request: so a change reaches open
connections, which no filter ahead of it that judges a connection once could do. What each line means is written in
envoy/module/kafka/policy.rs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from urllib.parse import quote

from ...policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    KafkaRule,
    KafkaRules,
    ResolvedRule,
)
from ...policies.workload import Endpoint
from ..snapshot import FILTER_CONFIG, Resource
from ..wire import any_of_type, frame, number, text
from .address import as_envoy_prints
from .matcher import extension
from .ports import port_groups
from .rule_name import default_allow, no_rule_matched, none_of_these_matched
from .subject import Enforced, Policed, policed_where
from .whatever_is_inside import whatever_is_inside

KAFKA_FILTER = "lockgate.kafka"
_MODULE = "lockgate"
_MESSAGE = "envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"


def kafka_policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (identity, direction) pairs with at least one rule about Kafka requests."""
    return policed_where(endpoints, attrgetter("about_kafka"))


class KafkaCompiler:
    """`compile` is a pure function of its arguments."""

    def __init__(self, log: Path) -> None:
        """Refused requests are logged to `log`."""
        self._log = log

    def compile(self, endpoints: Enforced, policed: Policed) -> Resource:
        """The filter's configuration. The arguments are as for NodeCompiler.compile."""
        page = _Page()
        for direction in Direction:
            page.add(direction, [pair for pair in endpoints if (pair[0].identity, direction) in policed])
        identities = sorted({endpoint.identity for endpoint, _ in endpoints})
        known = [f"known {','.join(map(str, identities))}"] if identities else []
        body = "\n".join(chain(("lockgate-kafka 1", f"log {self._log}"), page.lines(), known))
        return Resource(FILTER_CONFIG, KAFKA_FILTER, extension(KAFKA_FILTER, _MESSAGE, filter_config(body)))


def filter_config(body: str) -> bytes:
    """The serialised DynamicModuleNetworkFilter; an empty `body` leaves what the module has."""
    module = text(1, _MODULE) + number(3, 1)  # do_not_close: it has a thread
    given = frame(3, any_of_type("type.googleapis.com/google.protobuf.BytesValue", frame(1, body.encode())))
    return frame(1, module) + text(2, KAFKA_FILTER) + given


class _Page:
    """The lines about sets of rules, halves and whose they are, as they come together."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], int] = {}
        self._halves: dict[tuple[str, ...], int] = {}
        self._owns: list[str] = []

    def add(self, direction: Direction, endpoints: Enforced) -> None:
        """These endpoints' policies in one direction.

        Endpoints of one identity differ when a rule names a port that they number differently; only then are they told
        apart, by their addresses.
        """
        of_identity: dict[int, dict[int, list[Endpoint]]] = {}
        for endpoint, policy in sorted(endpoints, key=lambda pair: pair[0].key):
            half = self._half(endpoint.identity, direction, policy.direction(direction))
            of_identity.setdefault(endpoint.identity, {}).setdefault(half, []).append(endpoint)
        for identity, halves in sorted(of_identity.items()):
            for half, members in halves.items():
                own = f"own {direction} {identity} {half}"
                addresses = [as_envoy_prints(ip) for each in members for ip in each.ips]
                self._owns += [f"{own} {address}" for address in addresses] if len(halves) > 1 else [own]

    def lines(self) -> Iterator[str]:
        """Sets first: halves speak of them."""
        for rules in self._sets:
            yield "set"
            yield from (f"rule {rule}" for rule in rules)
        for half in self._halves:
            yield from half
        yield from self._owns

    def _half(self, identity: int, direction: Direction, half: DirectionPolicy) -> int:
        unmatched = f"deny {no_rule_matched(identity, direction)}"
        uncovered = unmatched if half.default_deny else f"allow {default_allow(identity, direction)}"
        lines = [f"half {uncovered}"]
        for group in port_groups(half.rules):
            lines.append("ports " + ",".join(f"{first}-{last}" for first, last in group.spans))
            others = self._say(_covering(group.rules, None), unmatched, uncovered)
            said: dict[str, list[int]] = {}
            identities = frozenset[int]().union(*(rule.peers for rule in group.rules if rule.peers is not None))
            for peer in sorted(identities):
                said.setdefault(self._say(_covering(group.rules, peer), unmatched, uncovered), []).append(peer)
            lines += [f"peers {','.join(map(str, who))} {say}" for say, who in said.items() if say != others]
            lines.append(f"others {others}")
        return self._halves.setdefault(tuple(lines), len(self._halves))

    def _say(self, covering: Sequence[ResolvedRule], unmatched: str, uncovered: str) -> str:
        """What the rules that cover a peer and a port say together."""
        settled = whatever_is_inside(covering, "allow {}".format, "deny {}".format, unmatched, uncovered)
        if settled is not None:
            return settled
        about = [rule for rule in covering if isinstance(rule.l7, KafkaRules) and rule.tls is None]
        lines = tuple(dict.fromkeys(rule_line(each) for rule in about for each in _rules_of(rule)))
        if not lines:
            return unmatched
        name = none_of_these_matched([rule.origin for rule in about])
        return f"set {self._sets.setdefault(lines, len(self._sets))} {name}"


def _rules_of(rule: ResolvedRule) -> tuple[KafkaRule, ...]:
    return rule.l7.kafka if isinstance(rule.l7, KafkaRules) else ()


def _covering(rules: Sequence[ResolvedRule], identity: int | None) -> list[ResolvedRule]:
    return [rule for rule in rules if rule.peers is None or (identity is not None and identity in rule.peers)]


def rule_line(rule: KafkaRule) -> str:
    """keys|version|client|topic, with an empty part for any; the client's id is percent-encoded."""
    keys = ",".join(map(str, sorted(rule.api_keys)))
    version = "" if rule.api_version is None else str(rule.api_version)
    return f"{keys}|{version}|{quote(rule.client_id or '', safe='')}|{rule.topic or ''}"
