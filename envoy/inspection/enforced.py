"""The policy trees that Envoy enforces, read back from its own dump as rules. Pure: decoded JSON in, records out.

A tree asks one thing after the other (subject, port, peer, method ...) and ends in actions that carry the names of
rules. Each way through it from the top to an action becomes one record; the order is the tree's, so of two records that
fit a request the first one counts.
https://www.envoyproxy.io/docs/envoy/v1.40.0/xds/type/matcher/v3/matcher.proto
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from ..config.end import DESTINATION, SOURCE, identity_of
from .inspect import redact

OTHERWISE = "otherwise"  # nothing above it fitted
_ANY = "any"
_MOST_NAMES = 10  # of servers in one field; there may be thousands

_INPUTS: Mapping[str, str] = MappingProxyType(
    {
        "DestinationIPInput": "destination",
        "DirectSourceIPInput": "source",
        "SourceIPInput": "source",
        "DestinationPortInput": "port",
        "ServerNameInput": "server name",
    }
)
_FILTER_STATE: Mapping[str, str] = MappingProxyType(
    {
        SOURCE: "source",
        DESTINATION: "destination",
        "lockgate.transport": "transport",  # of the TLS listener: tls or plain, as the client began
    }
)
_HEADERS: Mapping[str, str] = MappingProxyType({":method": "method", ":path": "path", ":authority": "host"})
_Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EnforcedRule:
    """One way through the tree of a filter.

    `fields` says what a request must be: `subject` (whose rules they are), `source` and `destination` (identities),
    `port`, `method`, `path`, `host`, `server name`, and `more` for headers and all else. `x*` begins with x, `~x`
    matches the RE2 x, OTHERWISE is everything that nothing above fitted. What is not there is not asked. `name` is the
    action's.
    """

    filter: str
    fields: Mapping[str, tuple[str, ...]]
    allowed: bool
    name: str


def enforced_rules(dump: _Json, own: Collection[str]) -> Iterator[EnforcedRule]:
    """The rules for one end in the RBAC filters of a config_dump, secrets struck out.

    A filter's tree asks first whose rules are wanted; `own` are all texts by which that end may be known there. A
    filter without any of them has no rules for it.
    """
    for section in dump.get("configs", ()):
        for entry in section.get("ecds_filters", (section,)):
            filter_ = entry.get("ecds_filter", {})
            matcher = _judging(filter_.get("typed_config", {})).get("matcher")
            if matcher is not None:
                for fields, action in _top(matcher, frozenset(own)):
                    allowed = action.get("action", "ALLOW") == "ALLOW"
                    yield EnforcedRule(filter_.get("name", ""), fields, allowed, action.get("name", ""))


_Fields: TypeAlias = Mapping[str, tuple[str, ...]]


def _judging(config: _Json) -> _Json:
    """The RBAC filter of a policy that changes headers too: the first of the chain that its filter runs."""
    run = config.get("matcher", {}).get("on_no_match", {}).get("action", {}).get("typed_config", {})
    chain = run.get("filter_chain", {}).get("typed_config", ())
    return chain[0].get("typed_config", {}) if chain else config


def _top(matcher: _Json, own: frozenset[str]) -> Iterator[tuple[_Fields, _Json]]:
    tree = matcher.get("matcher_tree", {})
    entries = tree.get("exact_match_map", {}).get("map", {})
    for key in entries.keys() & own:
        # Struck out only here: a whole dump is large, and one end's part of it small.
        yield from _on_match(redact(entries[key]), {"subject": (identity_of(key),)})


def _on_match(on_match: _Json, fields: _Fields) -> Iterator[tuple[_Fields, _Json]]:
    if "matcher" in on_match:
        yield from _matcher(on_match["matcher"], fields)
    elif "action" in on_match:
        yield fields, on_match["action"].get("typed_config", {})


def _matcher(matcher: _Json, fields: _Fields) -> Iterator[tuple[_Fields, _Json]]:
    asked = ""
    if "matcher_tree" in matcher:
        tree = matcher["matcher_tree"]
        asked = _asked(tree.get("input", {}))
        header = _header(tree.get("input", {}))
        for values, on_match in _branches(tree):
            shown = tuple(f"{header}: {value}" for value in values) if asked == "more" and header else values
            yield from _on_match(on_match, _with(fields, asked, shown))
    for entry in matcher.get("matcher_list", {}).get("matchers", ()):
        found = dict(fields)
        for asked, value in _predicate(entry.get("predicate", {})):
            found = dict(_with(found, asked, (value,)))
        yield from _on_match(entry.get("on_match", {}), found)
    if "on_no_match" in matcher:
        yield from _on_match(matcher["on_no_match"], _with(fields, asked, (OTHERWISE,)))


def _branches(tree: _Json) -> Iterator[tuple[tuple[str, ...], _Json]]:
    of_ends = _key(tree.get("input", {})) in (SOURCE, DESTINATION)  # whose prefixes are identities
    exact, by_prefix = (tree.get(name, {}) for name in ("exact_match_map", "prefix_match_map"))
    if not isinstance(exact, Mapping) or not isinstance(by_prefix, Mapping):
        return  # struck out
    for key, on_match in exact.get("map", {}).items():
        yield (key,), on_match
    prefixes = by_prefix.get("map", {})
    for key in sorted(prefixes, key=lambda key: (-len(key), key)):  # the longest counts
        yield (identity_of(key) if of_ends else f"{key}*",), prefixes[key]
    custom = tree.get("custom_match", {}).get("typed_config", {})
    for entry in custom.get("domain_matchers", ()):
        names = entry.get("domains", ())
        more = (f"and {len(names) - _MOST_NAMES} more",) if len(names) > _MOST_NAMES else ()
        yield (*names[:_MOST_NAMES], *more), entry.get("on_match", {})
    for entry in custom.get("range_matchers", ()):
        ranges = entry.get("ranges", ())
        yield (
            tuple(f"{each['address_prefix']}/{each.get('prefix_len', 0)}" for each in ranges),
            entry.get("on_match", {}),
        )


def _predicate(predicate: _Json) -> Iterator[tuple[str, str]]:
    """(what is asked, value) of everything that must hold."""
    if "single_predicate" in predicate:
        single = predicate["single_predicate"]
        reads = single.get("input", {})
        asked, value = _asked(reads), _value(single.get("value_match", {}))
        header = _header(reads)
        yield asked, f"{header}: {value}" if asked == "more" and header else value
    elif "and_matcher" in predicate:
        for each in predicate["and_matcher"].get("predicate", ()):
            yield from _predicate(each)
    elif "or_matcher" in predicate:
        listed = [each for part in predicate["or_matcher"].get("predicate", ()) for each in _predicate(part)]
        columns = {name for name, _ in listed}
        yield columns.pop() if len(columns) == 1 else "more", " or ".join(value for _, value in listed)
    elif "not_matcher" in predicate:
        for asked_one, value in _predicate(predicate["not_matcher"]):
            yield asked_one, f"not {value}"


def _value(match: _Json | str) -> str:
    if isinstance(match, str):  # struck out
        return match
    if "exact" in match:
        return str(match["exact"])
    if "prefix" in match:
        return f"{match['prefix']}*"
    if "suffix" in match:
        return f"*{match['suffix']}"
    regex = match.get("safe_regex", {}).get("regex")
    if regex is None:
        return "?"
    return _ANY if regex == r"\C*" else f"~{regex}"


def _asked(reads: _Json | str) -> str:
    """A column for what a tree reads."""
    config = reads.get("typed_config", {}) if isinstance(reads, Mapping) else {}
    kind = config.get("@type", "").rpartition(".")[2]
    if kind == "HttpRequestHeaderMatchInput":
        return _HEADERS.get(config.get("header_name", ""), "more")
    if kind == "FilterStateInput":
        return _FILTER_STATE.get(_key(reads), "more")
    return _INPUTS.get(kind, "more")


def _key(reads: _Json | str) -> str:
    """The key of the filter state that a tree reads; empty for anything else."""
    config = reads.get("typed_config", {}) if isinstance(reads, Mapping) else {}
    return str(config.get("key", ""))


def _header(reads: _Json | str) -> str:
    """The name of the header that a tree reads; empty for anything else."""
    config = reads.get("typed_config", {}) if isinstance(reads, Mapping) else {}
    return str(config.get("header_name", ""))


def _with(fields: _Fields, asked: str, values: tuple[str, ...]) -> _Fields:
    """A field asked again is narrower now; headers add up."""
    if not asked or (asked == "more" and values == (OTHERWISE,)) or (values == (_ANY,) and asked in fields):
        return fields
    before = fields.get(asked, ()) if asked == "more" else ()
    return {**fields, asked: (*before, *values)}
