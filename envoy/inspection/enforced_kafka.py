"""The Kafka policy that Envoy enforces, read back from its own dump as rules. Pure: decoded JSON in, records out.

The Kafka filter's configuration is a page of lines (envoy/module/kafka/policy.rs): sets of rules, halves of policies
that say which set judges whom on which ports, and whose the halves are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

from ...policies import Direction
from ...policies.kafka_api import API_NAMES, ROLE_KEYS
from .enforced import OTHERWISE, EnforcedRule

_FILTER = "lockgate.kafka"
_NO_RULE = "no-rule-matched:"
_ROLES = {keys: str(role) for role, keys in ROLE_KEYS.items()}


@dataclass(slots=True)
class _Half:
    uncovered: str
    groups: list[tuple[tuple[str, ...], list[tuple[tuple[str, ...], str]]]] = field(default_factory=list)


def kafka_rules(dump: Mapping[str, Any], identity: int, addresses: Collection[str]) -> Iterator[EnforcedRule]:
    """The rules about Kafka requests to and from one endpoint, by its identity and its addresses.

    Of two records that fit a request the first one counts. `method` has the role or the APIs, `more` the topic, the
    client's id and the version.
    """
    sets, halves, owns = _read(_page(dump))
    known = set(map(ip_address, addresses))
    for direction, own in owns.get(str(identity), {}).items():
        for address, half in own:
            if not address or ip_address(address) in known:
                yield from _half(halves[half], direction, sets)


def _page(dump: Mapping[str, Any]) -> Sequence[str]:
    for section in dump.get("configs", ()):
        for entry in section.get("ecds_filters", (section,)):
            given = entry.get("ecds_filter", {})
            value = given.get("typed_config", {}).get("filter_config", {}).get("value")
            if given.get("name") == _FILTER and isinstance(value, str):
                try:
                    return base64.b64decode(value, validate=True).decode().splitlines()
                except (binascii.Error, UnicodeDecodeError):  # another's filter of this name
                    return ()
    return ()


_Owns = dict[str, dict[str, list[tuple[str, int]]]]  # by identity and direction: address (any when empty), half


def _read(lines: Sequence[str]) -> tuple[list[list[str]], list[_Half], _Owns]:
    sets: list[list[str]] = []
    halves: list[_Half] = []
    owns: _Owns = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "set":
            sets.append([])
        elif kind == "rule":
            sets[-1].append(rest)
        elif kind == "half":
            halves.append(_Half(rest))
        elif kind == "ports":
            halves[-1].groups.append((tuple(rest.split(",")), []))
        elif kind == "peers":
            peers, _, say = rest.partition(" ")
            halves[-1].groups[-1][1].append((tuple(peers.split(",")), say))
        elif kind == "others":
            halves[-1].groups[-1][1].append(((OTHERWISE,), rest))
        elif kind == "own":
            direction, identity, half, *address = rest.split(" ")
            owns.setdefault(identity, {}).setdefault(direction, []).append(("".join(address), int(half)))
    return sets, halves, owns


def _half(half: _Half, direction: str, sets: Sequence[Sequence[str]]) -> Iterator[EnforcedRule]:
    peer = "source" if direction == Direction.INGRESS else "destination"
    filter_ = f"{_FILTER}.{direction}"
    for others in (False, True):  # the groups have no port in common, so all others may come last
        for ports, said in half.groups:
            for who, say in said:
                if (who == (OTHERWISE,)) is others:
                    yield from _say(filter_, {peer: who, "port": ports}, say, sets)
    yield from _say(filter_, {"port": (OTHERWISE,)}, half.uncovered, sets)


def _say(
    filter_: str, fields: Mapping[str, tuple[str, ...]], say: str, sets: Sequence[Sequence[str]]
) -> Iterator[EnforcedRule]:
    kind, _, rest = say.partition(" ")
    if kind != "set":
        yield EnforcedRule(filter_, fields, kind == "allow", rest)
        return
    number, _, unmatched = rest.partition(" ")
    for rule in sets[int(number)]:
        yield EnforcedRule(filter_, {**fields, **_request(rule)}, True, unmatched.removeprefix(_NO_RULE))
    yield EnforcedRule(filter_, {**fields, "method": (OTHERWISE,)}, False, unmatched)


def _request(rule: str) -> dict[str, tuple[str, ...]]:
    """keys|version|client|topic, of which what is empty is any."""
    keys, version, client, topic = rule.split("|")
    numbers = frozenset(map(int, keys.split(","))) if keys else frozenset[int]()
    role = _ROLES.get(numbers)
    names = (role,) if role else tuple(API_NAMES.get(number, str(number)) for number in sorted(numbers))
    asked = (("topic", topic), ("client", unquote(client)), ("version", version))
    more = tuple(f"{name}: {value}" for name, value in asked if value)
    return ({"method": names} if names else {}) | ({"more": more} if more else {})
