"""Server names (SNI) as a matcher whose cost does not grow with the names: those that are spelt out are looked up in a
map, patterns by the domain they end in, and only then is a regular expression tried, of a bounded size.

Envoy gives the name in lower case; a connection that is not TLS, or names no server, gives no value. What patterns
mean: policies/dns_name.py.
https://www.envoyproxy.io/docs/envoy/v1.40.0/xds/type/matcher/v3/domain.proto
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from ...policies.dns_name import server_name_matches, server_name_regex
from .http_tree import joined
from .matcher import Input, OnMatch, Predicate, any_of, descend, domain_map, extension, matches

SERVER_NAME = Input(extension("server-name", "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"))

# Which of some lists of names hold the connection's, by position: always (no predicate), or when all predicates hold. A
# list that is not there does not.
Held: TypeAlias = Mapping[int, tuple[Predicate, ...]]

_DOMAINS = 64  # that share a tree: one expression tells their patterns apart


def server_name_tree(lists: Sequence[Sequence[str]], say: Callable[[Held], OnMatch]) -> OnMatch:
    """What `say` says of each connection; a list without names holds every one, whatever it names. Never a miss unless
    `say` says one."""
    everywhere: dict[int, tuple[Predicate, ...]] = {at: () for at, names in enumerate(lists) if not names}
    exact: dict[str, set[int]] = {}
    patterns = _Patterns()
    for at, names in enumerate(lists):
        for name in names:
            if "*" in name:
                patterns.add(name, at)
            else:
                exact.setdefault(name, set()).add(at)

    def said(held: Held) -> OnMatch:
        return say(dict(sorted({**everywhere, **held}.items())))

    alike: dict[frozenset[int], list[str]] = {}
    for name, holding in sorted(exact.items()):
        alike.setdefault(frozenset(holding | patterns.holding(name)), []).append(name)
    entries = [(names, said(dict.fromkeys(holding, ()))) for holding, names in alike.items()]
    entries += [([f"*.{each}" for each in domains], said(held)) for domains, held in patterns.by_domain()]
    otherwise = said(patterns.anywhere())
    return descend(domain_map(SERVER_NAME, entries, otherwise)) if entries else otherwise


def is_named(names: Iterable[str]) -> Predicate:
    """The connection names one of these servers; `names` is not empty. For where no tree can be: the cost grows with
    the names."""
    regexes = sorted(set(map(server_name_regex, names)))
    return any_of([matches(SERVER_NAME, each) for each in joined(regexes)])


class _Patterns:
    """Patterns of lists by the domain that every name they match ends in ("" for none)."""

    def __init__(self) -> None:
        self._domains: dict[str, dict[str, set[int]]] = {}

    def add(self, pattern: str, at: int) -> None:
        _, _, domain = pattern.rpartition("*")[2].partition(".")
        self._domains.setdefault(domain, {}).setdefault(pattern, set()).add(at)

    def holding(self, name: str) -> set[int]:
        """The lists with a pattern that matches."""
        return {
            at
            for domain in _above(name)
            for pattern, listed in self._domains.get(domain, {}).items()
            if server_name_matches(pattern, name)
            for at in listed
        }

    def anywhere(self) -> Held:
        """Of the patterns that end in no domain."""
        return _held([self._domains.get("", {})])

    def by_domain(self) -> Iterator[tuple[list[str], Held]]:
        """Domains, a longer one before those that it is in, and what holds of the names in them: patterns of the
        domains around them count too. Those of the other domains beside them do no harm."""
        listed = sorted(self._domains.keys() - {""}, key=lambda domain: (-domain.count("."), domain))
        for start in range(0, len(listed), _DOMAINS):
            some = listed[start : start + _DOMAINS]
            around = {outer for domain in some for outer in (domain, *_above(domain))}
            yield some, _held([self._domains[each] for each in sorted(around & self._domains.keys())])


def _above(name: str) -> Iterator[str]:
    """The domains that a name is in: of a.b.c they are b.c, c and the empty one."""
    while name:
        _, _, name = name.partition(".")
        yield name


def _held(groups: Iterable[Mapping[str, set[int]]]) -> Held:
    found: dict[int, list[str]] = {}
    for patterns in groups:
        for pattern, listed in patterns.items():
            for at in listed:
                found.setdefault(at, []).append(pattern)
    return {at: (is_named(patterns),) for at, patterns in sorted(found.items())}
