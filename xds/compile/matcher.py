"""Matcher trees of xds.type.matcher.v3, written straight to the wire.

An `OnMatch` is what a tree says when it gets there: an action or a deeper tree. A miss in a deeper tree is no verdict:
Envoy goes on with the shorter prefix, the next entry of a list and at last `otherwise` of the tree around it.
https://www.envoyproxy.io/docs/envoy/latest/xds/type/matcher/v3/matcher.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import NewType

from ..wire import any_of_type, frame, number, text

OnMatch = NewType("OnMatch", bytes)  # a serialised Matcher.OnMatch
Matcher = NewType("Matcher", bytes)  # a serialised Matcher
Predicate = NewType("Predicate", bytes)  # a serialised Matcher.MatcherList.Predicate
Input = NewType("Input", bytes)  # a serialised TypedExtensionConfig that reads one value of the request

_TYPES = "type.googleapis.com/"
_ACTION = frame(2, b"")[:1]

# What is written again with the next change is remembered only where that saves something: in a map of so many entries,
# and of those only what is small. A remembered tree of all rules of an endpoint would stay long after it has changed.
MANY_ENTRIES = 256
_SMALL = 1024  # bytes
_NETWORK_INPUT = "envoy.extensions.matching.common_inputs.network.v3."


def extension(name: str, message: str, payload: bytes = b"") -> bytes:
    """A TypedExtensionConfig (envoy.config.core.v3 and xds.core.v3 share the layout) around a message by full name."""
    return text(1, name) + frame(2, any_of_type(_TYPES + message, payload))


def _network_input(name: str, message: str) -> Input:
    return Input(extension(name, _NETWORK_INPUT + message))


DESTINATION_IP = _network_input("destination-ip", "DestinationIPInput")
DESTINATION_PORT = _network_input("destination-port", "DestinationPortInput")
# The connection's peer. SourceIPInput would believe X-Forwarded-For.
DIRECT_SOURCE_IP = _network_input("direct-source-ip", "DirectSourceIPInput")


def filter_state(key: str) -> Input:
    """Reads what a filter before has left under `key`. Absent is no value."""
    return Input(extension(key, _NETWORK_INPUT + "FilterStateInput", text(1, key)))


@lru_cache(maxsize=4096)
def request_header(name: str, label: str = "header") -> Input:
    """Reads a request header; repeated ones come joined with ",". Absent is no value, which no predicate matches.

    `label` is the input's own name, which means nothing to Envoy.
    """
    return Input(extension(label, "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", text(1, name)))


def act(action: bytes) -> OnMatch:
    """Stop here with an action (a TypedExtensionConfig)."""
    return OnMatch(frame(2, action))


def is_action(on_match: OnMatch) -> bool:
    """True for what `act` makes: nothing is asked behind it, and it is never a miss."""
    return on_match.startswith(_ACTION)


def descend(matcher: Matcher) -> OnMatch:
    """Go on in a deeper tree."""
    return OnMatch(frame(1, matcher))


def always(on_match: OnMatch) -> Matcher:
    """A tree that has nothing to ask."""
    return Matcher(frame(3, on_match))


def exact_map(reads: Input, entries: Mapping[str, OnMatch], otherwise: OnMatch | None = None) -> Matcher:
    """Look the whole value up. `entries` must not be empty: Envoy rejects an empty map."""
    return _map_tree(2, reads, entries, otherwise)


def prefix_map(reads: Input, entries: Mapping[str, OnMatch], otherwise: OnMatch | None = None) -> Matcher:
    """Look the longest prefix up, then shorter ones on a miss. Neither `entries` nor a key may be empty."""
    return _map_tree(3, reads, entries, otherwise)


def longest_prefix(
    reads: Input,
    entries: Iterable[tuple[Iterable[IPv4Network | IPv6Network], OnMatch]],
    otherwise: OnMatch | None = None,
) -> Matcher:
    """Look an IP address up: the longest prefix that holds it counts. Neither `entries` nor one's prefixes may be
    empty. https://www.envoyproxy.io/docs/envoy/v1.40.0/xds/type/matcher/v3/ip.proto"""
    ranges = b"".join(
        frame(1, b"".join(frame(1, _cidr(each)) for each in prefixes) + frame(2, on_match))
        for prefixes, on_match in entries
    )
    found = extension("longest-prefix", "xds.type.matcher.v3.IPMatcher", ranges)
    return _matcher(frame(2, frame(1, reads) + frame(4, found)), otherwise)


def domain_map(
    reads: Input, entries: Iterable[tuple[Sequence[str], OnMatch]], otherwise: OnMatch | None = None
) -> Matcher:
    """Look a name up, else the longest domain it is in, written `*.example.com`. Neither `entries` nor one's names may
    be empty, and no name may come twice. Longer domains come first: of two that hold a name Envoy takes the one that
    is listed before the other. A miss below is a miss of the whole.
    https://www.envoyproxy.io/docs/envoy/v1.40.0/xds/type/matcher/v3/domain.proto"""
    listed = b"".join(
        frame(1, b"".join(text(1, name) for name in names) + frame(2, on_match)) for names, on_match in entries
    )
    found = extension("domains", "xds.type.matcher.v3.ServerNameMatcher", listed)
    return _matcher(frame(2, frame(1, reads) + frame(4, found)), otherwise)


def first_of(entries: Iterable[tuple[Predicate, OnMatch]], otherwise: OnMatch | None = None) -> Matcher:
    """Try predicates in order; one whose tree misses passes on to the next. `entries` must not be empty."""
    listed = b"".join(frame(1, frame(1, predicate) + frame(2, on_match)) for predicate, on_match in entries)
    return _matcher(frame(1, listed), otherwise)


def equals(reads: Input, value: str) -> Predicate:
    """The value is exactly this; an absent one is not the empty one."""
    return _single(reads, frame(1, value.encode()))


def ends_with(reads: Input, suffix: str) -> Predicate:
    """The value ends like this."""
    return _single(reads, frame(3, suffix.encode()))


def matches(reads: Input, regex: str) -> Predicate:
    """The whole value matches the RE2 expression."""
    return _single(reads, frame(5, frame(1, b"") + text(2, regex)))


def is_present(reads: Input) -> Predicate:
    """There is a value, be it empty. `\\C` is any byte: `.` would miss bytes that are not UTF-8."""
    return matches(reads, r"\C*")


def all_of(predicates: Sequence[Predicate]) -> Predicate:
    """Every one holds. At least one is needed; one alone stays itself, as Envoy wants two for an `and_matcher`."""
    if len(predicates) == 1:
        return predicates[0]
    return Predicate(frame(3, b"".join(frame(1, predicate) for predicate in predicates)))


def any_of(predicates: Sequence[Predicate]) -> Predicate:
    """At least one holds; one alone stays itself."""
    if len(predicates) == 1:
        return predicates[0]
    return Predicate(frame(2, b"".join(frame(1, predicate) for predicate in predicates)))


def not_(predicate: Predicate) -> Predicate:
    """It does not hold."""
    return Predicate(frame(4, predicate))


def _map_tree(kind: int, reads: Input, entries: Mapping[str, OnMatch], otherwise: OnMatch | None) -> Matcher:
    entry = _entry if len(entries) < MANY_ENTRIES else _entry_of_many
    body = b"".join([entry(key, on_match) for key, on_match in entries.items()])
    return _matcher(frame(2, frame(1, reads) + frame(kind, body)), otherwise)


def _cidr(prefix: IPv4Network | IPv6Network) -> bytes:
    """An xds.core.v3.CidrRange."""
    return text(1, str(prefix.network_address)) + frame(2, number(1, prefix.prefixlen))


def _matcher(kind: bytes, otherwise: OnMatch | None) -> Matcher:
    return Matcher(kind if otherwise is None else kind + frame(3, otherwise))


def _single(reads: Input, value_match: bytes) -> Predicate:
    return Predicate(frame(1, frame(1, reads) + frame(2, value_match)))


def _entry(key: str, on_match: OnMatch) -> bytes:
    """One entry of a MatchMap."""
    return frame(1, frame(1, key.encode()) + frame(2, on_match))


def _entry_of_many(key: str, on_match: OnMatch) -> bytes:
    return _remembered_entry(key, on_match) if len(on_match) <= _SMALL else _entry(key, on_match)


@lru_cache(maxsize=16384)
def _remembered_entry(key: str, on_match: OnMatch) -> bytes:
    """The same rule gives the same bytes in every later compilation."""
    return _entry(key, on_match)
