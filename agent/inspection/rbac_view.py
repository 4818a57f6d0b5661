"""The rules that Envoy enforces for an endpoint, with names for identities and the policy for each rule. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ...envoy.inspection.enforced import OTHERWISE, EnforcedRule
from ...policies import Direction
from ...policies.endpoint_policy import LAST_PORT
from ...xds import NOT_POLICED, names_a_rule

_UNNUMBERED = re.compile(r"\.[0-9]+$")  # of a shard


@dataclass(frozen=True, slots=True)
class Row:
    """One rule, or the end of what rules say (then `policy` is empty and `rule` says what was found wanting)."""

    direction: str
    protocol: str  # http, tls ...: which filter judges by it
    peer: str
    port: str
    method: str
    path: str
    host: str
    more: str
    verdict: str
    policy: str
    rule: str

    def to_json(self) -> dict[str, str]:
        """Every field."""
        return {name: getattr(self, name) for name in self.__slots__}


def rows(rules: Iterable[EnforcedRule], names: Mapping[str, str]) -> list[Row]:
    """`names` are people's words for identities. Rules that differ in the port alone are one."""
    found: dict[Row, set[int]] = {}
    for rule in rules:
        if rule.name == NOT_POLICED:
            continue
        protocol, _, direction = _UNNUMBERED.sub("", rule.filter).removeprefix("lockgate.").partition(".")
        policy, place = _origin(rule.name)
        method, path, host = (_text(rule.fields.get(field)) for field in ("method", "path", "host"))
        row = Row(
            direction,
            protocol,
            _peer(rule, direction, names),
            "",
            method,
            path,
            host,
            "; ".join(_more(rule.fields)),
            "allow" if rule.allowed else "deny",
            policy,
            place,
        )
        found.setdefault(row, set()).update(*map(_ports, rule.fields.get("port", ("",))))
    named: dict[tuple[str, str], set[int]] = {}
    for row, ports in found.items():
        named.setdefault((row.protocol, row.direction), set()).update(ports)
    every = {filter_: ports for filter_, ports in named.items() if ports > _REST}
    return [
        replace(row, port="any" if ports == every.get((row.protocol, row.direction)) else _spans(ports))
        for row, ports in found.items()
    ]


def identity_names(endpoints: Iterable[Mapping[str, Any]], identities: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Names of identities, from what the local API says: their workloads', or what the labels of others say."""
    names: dict[str, str] = {}
    for identity in identities:
        reserved = [label.partition(":")[2] for label in identity["labels"] if label.startswith("reserved:")]
        own = [label for label in identity["labels"] if label.startswith(("cidr:", "fqdn:"))]
        if own or reserved:
            names[str(identity["identity"])] = ", ".join(own) or f"reserved:{_family_free(reserved)}"
    workloads: dict[str, list[str]] = {}
    for endpoint in endpoints:
        workloads.setdefault(str(endpoint["identity"]), []).append(endpoint["endpoint"])
    return names | {identity: ", ".join(sorted(found)) for identity, found in workloads.items()}


def _family_free(reserved: Sequence[str]) -> str:
    """world-ipv4 and world-ipv6 are one peer to a reader."""
    return "world" if any(name.startswith("world") for name in reserved) else reserved[0]


def _origin(name: str) -> tuple[str, str]:
    """The policy and the place in it, of a rule's name; ("", the name) when no rule decided."""
    if not names_a_rule(name) or "," in name:  # one of several, which the filter does not tell apart
        return "", name
    policy, _, place = name.partition(":")
    return policy, place


def _peer(rule: EnforcedRule, direction: str, names: Mapping[str, str]) -> str:
    field = "source" if direction.startswith(Direction.INGRESS) else "destination"
    identities = rule.fields.get(field, ())
    return ", ".join(dict.fromkeys(names.get(identity, identity) for identity in identities)) or "any"


@lru_cache(maxsize=1024)
def _ports(text: str) -> frozenset[int]:
    """The ports that a tree asks for: a decimal, two with a - between, or a regular expression over decimals. Not asked
    is every port."""
    if text == OTHERWISE:
        return _REST
    first, dash, last = text.partition("-")
    if first.isdigit() and (last.isdigit() or not dash):
        return frozenset(range(int(first), int(last or first) + 1))
    pattern = re.compile(text[1:] if text.startswith("~") else ".*")
    return frozenset(port for port in range(LAST_PORT + 1) if pattern.fullmatch(str(port)))


_REST = frozenset({-1})  # the ports that no other rule of the tree names


def _spans(ports: Iterable[int]) -> str:
    """80, 8000-8100; any; otherwise."""
    spans: list[list[int]] = []
    for port in sorted(ports):
        if spans and port == spans[-1][-1] + 1 and port != 0:
            spans[-1] = [spans[-1][0], port]
        else:
            spans.append([port])
    words = [OTHERWISE if span == [-1] else "-".join(map(str, span)) for span in spans]
    return ", ".join(words[1:] + words[:1] if words[0] == OTHERWISE else words).replace(f"0-{LAST_PORT}", "any")


def _text(values: Sequence[str] | None) -> str:
    return ", ".join(values) if values else "any"


_SHOWN = frozenset({"subject", "source", "destination", "port", "method", "path", "host", "more"})


def _more(fields: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for field, values in fields.items():
        if field not in _SHOWN and tuple(values) != (OTHERWISE,):
            yield f"{field}: {_text(values)}"
    yield from fields.get("more", ())
