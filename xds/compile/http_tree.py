"""HTTP rules of one kind of peer and port as a matcher tree: method, then path, then host, then headers.

All rules here allow, so the tree is their union and needs no order: a value is looked up exactly, then by its prefixes,
longest first, then tried against the regexes that no map can hold; a miss on the way falls through to the next. The
method comes first because there are few: ten thousand paths under one method are one map, not ten thousand small ones.
The fields are RE2 over the whole value, `:path` with its query string (CiliumNetworkPolicy, PortRuleHTTP).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import re2

from ...policies.endpoint_policy import GrpcRule, HeaderMatch, HttpRule, HttpRules, MismatchAction
from .header_condition import can_match
from .header_tree import Needing, header_tree
from .matcher import MANY_ENTRIES, OnMatch, descend, exact_map, first_of, matches, prefix_map, request_header
from .rbac_action import allow
from .regex import ANY, Reduction, alternation, reduce

_INPUTS = (request_header(":method"), request_header(":path"), request_header(":authority"))
_HEADERS = len(_INPUTS)  # the depth at which only header conditions are left

# RE2 keeps a compiled program within 8 MiB; joined expressions stay far below, and below Envoy's raised limit.
LARGEST_PROGRAM = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One rule in the terms of the tree: what to look for in method, path and host, and the headers that must hold.

    Compared by identity: hashing it must be cheap, and who compiles again has the conditions of the same rule still.
    """

    name: str  # of the action when it matches
    fields: tuple[Reduction, Reduction, Reduction]
    headers: tuple[HeaderMatch, ...] = ()
    open_from: int = field(init=False)  # the depth from which on nothing narrows the rule

    def __post_init__(self) -> None:
        narrow = [depth for depth, part in enumerate((*self.fields, self.headers), 1) if not _is_open(part)]
        object.__setattr__(self, "open_from", narrow[-1] if narrow else 0)


def conditions(name: str, rules: HttpRules) -> list[Condition]:
    """The conditions of one policy rule. One that no request meets is left out, and a header match with a mismatch
    action is no condition: it always holds."""
    listed = (*(_of_http(name, rule) for rule in rules.http), *(_of_grpc(name, rule) for rule in rules.grpc))
    return [condition for condition in listed if condition is not None]


def http_tree(rules: Sequence[Condition], otherwise: OnMatch | None = None) -> OnMatch | None:
    """The union of the rules: an allow action, or a tree that gives `otherwise` (or misses) when none matches."""
    return _level(0, rules, otherwise)


def _of_http(name: str, rule: HttpRule) -> Condition | None:
    if not all(map(can_match, rule.headers)):
        return None
    needed = tuple(header for header in rule.headers if header.mismatch is MismatchAction.DENY)
    return Condition(name, (_reduced(rule.method), _reduced(rule.path), _reduced(rule.host)), needed)


def _of_grpc(name: str, rule: GrpcRule) -> Condition:
    """gRPC over HTTP/2 is POST to /service/method. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md"""
    if rule.method is None:
        path = Reduction(prefixes=frozenset({f"/{rule.service}/"}))
    else:
        path = Reduction(exact=frozenset({f"/{rule.service}/{rule.method}"}))
    return Condition(name, (Reduction(exact=frozenset({"POST"})), path, ANY))


def _is_open(part: object) -> bool:
    return part.is_any if isinstance(part, Reduction) else not part


def _reduced(regex: str | None) -> Reduction:
    return ANY if regex is None else reduce(regex)


def _level(depth: int, rules: Sequence[Condition], otherwise: OnMatch | None = None) -> OnMatch | None:
    if not rules:
        return otherwise
    for rule in rules:
        if rule.open_from <= depth:
            return allow(rule.name)
    if depth == _HEADERS:
        return header_tree([Needing(rule.name, rule.headers) for rule in rules], otherwise)
    return _field_tree(depth, rules, otherwise)


def _level_of_many(depth: int, rules: Sequence[Condition], otherwise: OnMatch | None = None) -> OnMatch | None:
    """The same of a part of very many rules: most keys of a big map hold one."""
    return _level_of_one(depth, rules[0], otherwise) if len(rules) == 1 else _level(depth, rules, otherwise)


@lru_cache(maxsize=16384)
def _level_of_one(depth: int, rule: Condition, otherwise: OnMatch | None) -> OnMatch | None:
    return _level(depth, (rule,), otherwise)


def _field_tree(depth: int, rules: Sequence[Condition], otherwise: OnMatch | None) -> OnMatch | None:
    """One field: exact map, else prefix map with the regexes that share a head, else what is left, else `otherwise`.

    Only the last of them needs it: a miss within one goes on to the next.
    """
    exact: dict[str, list[Condition]] = {}
    prefixes: dict[str, list[Condition]] = {}
    regexes: dict[str, dict[str, list[Condition]]] = {}
    level = _level if len(rules) < MANY_ENTRIES else _level_of_many
    for rule in rules:
        wanted = rule.fields[depth]
        for value in wanted.exact:
            exact.setdefault(value, []).append(rule)
        for head in wanted.prefixes:
            prefixes.setdefault(head, []).append(rule)
        for head, regex in wanted.regexes:
            regexes.setdefault(head, {}).setdefault(regex, []).append(rule)

    def under(head: str, otherwise: OnMatch | None = None) -> OnMatch | None:
        return _regex_list(depth, regexes.get(head, {}), level(depth + 1, prefixes.get(head, ()), otherwise))

    reads = _INPUTS[depth]
    tree = under("", otherwise)
    heads = {head: on_match for head in sorted({*prefixes, *regexes} - {""}) if (on_match := under(head)) is not None}
    if heads:
        tree = descend(prefix_map(reads, heads, tree))
    values = {value: on_match for value in sorted(exact) if (on_match := level(depth + 1, exact[value])) is not None}
    if values:
        tree = descend(exact_map(reads, values, tree))
    return tree


def _regex_list(depth: int, regexes: dict[str, list[Condition]], otherwise: OnMatch | None) -> OnMatch | None:
    """Regexes whose matches go on alike become one alternation, which RE2 tries at once."""
    alike: dict[OnMatch, list[str]] = {}
    for regex, rules in regexes.items():
        if (on_match := _level(depth + 1, rules)) is not None:
            alike.setdefault(on_match, []).append(regex)
    entries = [
        (matches(_INPUTS[depth], alternatives), on_match)
        for on_match, listed in alike.items()
        for alternatives in joined(sorted(listed))
    ]
    return descend(first_of(entries, otherwise)) if entries else otherwise


def joined(regexes: Iterable[str]) -> Iterable[str]:
    """The regexes as few alternations, none of them too large for RE2."""
    batch: list[str] = []
    size = 0
    for regex in regexes:
        more = _program_size(regex)
        if batch and size + more > LARGEST_PROGRAM:
            yield alternation(batch)
            batch, size = [], 0
        batch.append(regex)
        size += more
    if batch:
        yield alternation(batch)


@lru_cache(maxsize=16384)
def _program_size(regex: str) -> int:
    """Instructions of the compiled expression, the measure of Envoy's `re2.max_program_size`."""
    size: int = re2.compile(regex).programsize
    return size
