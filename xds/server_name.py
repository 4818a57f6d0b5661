"""Server names (SNI) as a matcher: exact ones in a map, patterns as one expression for each rule.

Envoy gives the name in lower case; a connection that is not TLS, or names no server, gives no value, which nothing here
matches. What patterns mean: policies/dns_name.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..policies.dns_name import pattern_regex
from .matcher import Input, OnMatch, Predicate, descend, exact_map, extension, first_of, matches
from .regex import alternation

SERVER_NAME = Input(extension("server-name", "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"))
_ANY = r"\C+"


def server_name_tree(rules: Iterable[tuple[Sequence[str], OnMatch]]) -> OnMatch | None:
    """What the first of the rules says whose names, never empty, hold the connection's; a miss when none does. None
    when there are no rules."""
    exact: dict[str, OnMatch] = {}
    patterns: dict[OnMatch, list[str]] = {}
    for names, says in rules:
        for name in names:
            if "*" in name:
                patterns.setdefault(says, []).append(name_regex(name))
            else:
                exact.setdefault(name, says)
    tree: OnMatch | None = None
    if patterns:
        entries = [(matches(SERVER_NAME, alternation(regexes)), says) for says, regexes in patterns.items()]
        tree = descend(first_of(entries))
    if exact:
        tree = descend(exact_map(SERVER_NAME, dict(sorted(exact.items())), tree))
    return tree


def is_named(names: Iterable[str]) -> Predicate:
    """The connection names one of these servers; `names` is not empty."""
    return matches(SERVER_NAME, alternation(sorted(set(map(name_regex, names)))))


def name_regex(pattern: str) -> str:
    """RE2 over the name as Envoy gives it."""
    return _ANY if pattern == "*" else pattern_regex(pattern)
