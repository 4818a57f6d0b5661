"""A policy without (some of) what it says: what is enforced while a proxy, or the kernel, does not take the whole.

The parts of a policy that Envoy is told are its requests rules, one by one, and its demands on TLS connections. Taking
them away must never open anything, so the rule around them stays and allows nothing through the proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from typing import NamedTuple

from .endpoint_policy import Direction, DnsRules, MismatchAction, TlsRules
from .model import Entry, HttpCondition, HttpConditions, Policy, PortRule, Rule

# Headers that a rule changes protect a server: without the change its requests must not pass by another rule either.
_CHANGING = frozenset({MismatchAction.ADD, MismatchAction.DELETE, MismatchAction.REPLACE})


class Part(NamedTuple):
    """One thing in a policy that Envoy judges by, told by its place: which spec, direction, entry, entry of toPorts,
    then "http", "grpc", "kafka" or "tls", and the number there."""

    rule: int
    direction: Direction
    entry: int
    ports: int
    kind: str
    item: int


def needs_envoy(policy: Policy) -> bool:
    """True when something in the policy is judged by Envoy."""
    return any(True for _ in parts(policy))


def parts(policy: Policy) -> Iterator[Part]:
    """All of them, in the order of the document."""
    for at, rule in enumerate(policy.rules):
        for direction, entries in ((Direction.INGRESS, rule.ingress), (Direction.EGRESS, rule.egress)):
            for number, entry in enumerate(entries):
                for index, ports in enumerate(entry.ports or ()):
                    yield from (Part(at, direction, number, index, kind, item) for kind, item in _judged(ports))


def port_rule(policy: Policy, part: Part) -> PortRule:
    """The entry of toPorts that a part stands in."""
    rule = policy.rules[part.rule]
    entry = (rule.ingress if part.direction is Direction.INGRESS else rule.egress)[part.entry]
    assert entry.ports is not None
    return entry.ports[part.ports]


def condition(policy: Policy, part: Part) -> HttpCondition | None:
    """The http rule that a part is; None for another kind."""
    l7 = port_rule(policy, part).l7
    return l7.http[part.item] if part.kind == "http" and isinstance(l7, HttpConditions) else None


def place(policy: Policy, part: Part) -> str:
    """Where in the document a part is, as problems name it."""
    around = port_rule(policy, part).path
    return f"{around}.serverNames" if part.kind == "tls" else f"{around}.rules.{part.kind}[{part.item}]"


def withheld(policy: Policy) -> Policy:
    """The policy when Envoy takes none of it: what only its requests rules allow is denied."""
    return _rebuilt(policy, lambda direction, at, entries: _withheld_entries(entries))


def shut(policy: Policy) -> Policy:
    """The policy when it allows nothing: who it is about, and what it denies (as it does `withheld`), stay."""
    return _rebuilt(withheld(policy), lambda direction, at, entries: tuple(entry for entry in entries if entry.deny))


def closed(policy: Policy) -> Policy:
    """The same in as few words as there are: where it denies something, it denies everything."""
    return _rebuilt(
        shut(policy),
        lambda direction, at, entries: tuple(replace(entry, peers=None, ports=None) for entry in entries[:1]),
    )


def only(policy: Policy, kept: Set[Part]) -> Policy:
    """Nothing of the policy but some of its parts, each allowing what it allows there."""

    def entries_of(direction: Direction, at: int, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        found = []
        for number, entry in enumerate(entries):
            listed = tuple(
                _keeping(ports, {(part.kind, part.item) for part in here})
                for index, ports in enumerate(entry.ports or ())
                if (here := {part for part in kept if part[:4] == (at, direction, number, index)})
            )
            if listed:
                found.append(replace(entry, ports=listed))
        return tuple(found)

    return _rebuilt(policy, entries_of)


def _judged(ports: PortRule) -> Iterator[tuple[str, int]]:
    if ports.tls is not None:
        yield "tls", 0
    if isinstance(ports.l7, HttpConditions):
        yield from (("http", item) for item in range(len(ports.l7.http)))
        yield from (("grpc", item) for item in range(len(ports.l7.grpc)))
    elif ports.l7 is not None and not isinstance(ports.l7, DnsRules):
        yield "kafka", 0


def _rebuilt(policy: Policy, entries: Callable[[Direction, int, tuple[Entry, ...]], tuple[Entry, ...]]) -> Policy:
    rules: list[Rule] = []
    for at, rule in enumerate(policy.rules):
        ingress = entries(Direction.INGRESS, at, rule.ingress)
        rules.append(replace(rule, ingress=ingress, egress=entries(Direction.EGRESS, at, rule.egress)))
    return replace(policy, rules=tuple(rules))


def _withheld_entries(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    found: list[Entry] = []
    for entry in entries:
        changing = tuple(replace(ports, l7=None, tls=None) for ports in entry.ports or () if _changes(ports))
        if changing:
            found.append(replace(entry, deny=True, ports=changing))
        kept = tuple(_keeping(ports, set()) for ports in entry.ports or () if not _changes(ports))
        if kept or not entry.ports:
            found.append(replace(entry, ports=kept if entry.ports is not None else None))
    return tuple(found)


def _changes(ports: PortRule) -> bool:
    return isinstance(ports.l7, HttpConditions) and any(
        header.mismatch in _CHANGING for condition in ports.l7.http for header in condition.headers
    )


def _keeping(ports: PortRule, kept: Set[tuple[str, int]]) -> PortRule:
    """The entry with no more than these; it goes on covering what it covers."""
    l7, tls = ports.l7, ports.tls
    if isinstance(l7, HttpConditions):
        l7 = HttpConditions(
            tuple(each for item, each in enumerate(l7.http) if ("http", item) in kept),
            tuple(each for item, each in enumerate(l7.grpc) if ("grpc", item) in kept),
        )
    elif l7 is not None and not isinstance(l7, DnsRules) and ("kafka", 0) not in kept:
        l7 = replace(l7, kafka=())
    if tls is not None and ("tls", 0) not in kept:
        tls = TlsRules()
    return replace(ports, l7=l7, tls=tls)
