"""A matcher interpreter: what Envoy does with a tree, in a few lines. The end-to-end tests show that Envoy agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import re2
from envoy_data_plane.envoy.config.core.v3 import HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.config.rbac.v3 import Action
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import Composite, ExecuteFilterAction
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.filters.http.set_metadata.v3 import Config as SetMetadata
from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import FilterStateInput
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import Matcher, MatcherMatcherListPredicate, MatcherOnMatch
from lockgate.policies.endpoint_policy import Direction
from lockgate.xds.compile.end import end_text
from lockgate.xds.wire import fields, submessage


@dataclass(frozen=True, slots=True)
class Seen:
    """What Envoy's inputs read. Header names are lower-case; repeated ones are joined already."""

    source: str
    destination: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    server_name: str = ""  # of the TLS greeting; there is no value when it is empty
    state: Mapping[str, str] = field(default_factory=dict)  # filter state, see `ends`
    encrypted: bool = True  # else it is not TLS

    def read(self, reads: TypedExtensionConfig) -> str | None:
        assert reads.typed_config is not None
        match reads.typed_config.type_url.rpartition(".")[2]:
            case "DirectSourceIPInput":
                return self.source
            case "DestinationIPInput":
                return self.destination
            case "DestinationPortInput":
                return str(self.port)
            case "FilterStateInput":
                return self.state.get(FilterStateInput.parse(reads.typed_config.value).key)
            case "TransportProtocolInput":
                return "tls" if self.encrypted else "raw_buffer"
            case "ServerNameInput":
                return self.server_name or None
            case "HttpRequestHeaderMatchInput":
                name = HttpRequestHeaderMatchInput.parse(reads.typed_config.value).header_name
                return self.headers.get(name)
            case other:
                raise AssertionError(other)


def ends(direction: Direction, own: int, peer: int, *, local: bool = True) -> dict[str, str]:
    """What the identity filter leaves for a connection of an endpoint; `local` False: it is another node's."""
    source, destination = (peer, own) if direction is Direction.INGRESS else (own, peer)
    return {
        "lockgate.source": end_text(source, here=local and direction is Direction.EGRESS),
        "lockgate.destination": end_text(destination, here=local and direction is Direction.INGRESS),
    }


def verdict(matcher: Matcher, seen: Seen) -> Action | None:
    """The RBAC action a tree comes to, None for a miss."""
    found = evaluate(matcher, seen)
    if found is None:
        return None
    assert found.typed_config is not None and found.typed_config.type_url.endswith("envoy.config.rbac.v3.Action")
    return Action.parse(found.typed_config.value)


def changed(composite: Composite, seen: Seen) -> tuple[dict[str, str], list[str]]:
    """The request's headers behind the composite filter, and the rules that it leaves for the access log."""
    headers, logged = dict(seen.headers), list[str]()
    found = evaluate(composite.matcher, seen) if composite.matcher is not None else None
    if found is None:
        return headers, logged
    assert found.typed_config is not None
    run = ExecuteFilterAction.parse(found.typed_config.value)
    chain = [run.typed_config] if run.typed_config is not None else run.filter_chain.typed_config  # type: ignore[union-attr]
    for entry in chain:
        assert entry.typed_config is not None
        if entry.typed_config.type_url.endswith("header_mutation.v3.HeaderMutation"):
            _mutate(HeaderMutation.parse(entry.typed_config.value), headers)
        else:
            for metadata in SetMetadata.parse(entry.typed_config.value).metadata:
                assert metadata.metadata_namespace == "lockgate.mismatch" and metadata.allow_overwrite
                assert metadata.value is not None
                logged += metadata.value.to_dict()["rules"]
    return headers, logged


def _mutate(filter_: HeaderMutation, headers: dict[str, str]) -> None:
    for mutation in filter_.mutations.request_mutations if filter_.mutations is not None else []:
        if mutation.remove:
            headers.pop(mutation.remove, None)
            continue
        option = mutation.append
        assert option is not None and option.header is not None and option.keep_empty_value
        name, value = option.header.key, option.header.value.replace("%%", "%")
        if option.append_action == HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD and name in headers:
            value = f"{headers[name]},{value}"
        headers[name] = value


def evaluate(matcher: Matcher, seen: Seen) -> TypedExtensionConfig | None:
    """The action a tree comes to, None for a miss."""
    if (domains := _domains(matcher)) is not None:
        assert matcher.matcher_tree is not None and matcher.matcher_tree.input is not None
        name = seen.read(matcher.matcher_tree.input)
        on_match = _of_domain(domains, name) if name else None
        return _follow(on_match if on_match is not None else matcher.on_no_match, seen)  # no way back from a miss
    if matcher.matcher_tree is not None:
        found = _tree(matcher, seen)
    else:
        entries = matcher.matcher_list.matchers if matcher.matcher_list is not None else []
        found = None
        for entry in entries:
            if found is None and entry.predicate is not None and _holds(entry.predicate, seen):
                found = _follow(entry.on_match, seen)
    return found if found is not None else _follow(matcher.on_no_match, seen)


def _follow(on_match: MatcherOnMatch | None, seen: Seen) -> TypedExtensionConfig | None:
    if on_match is None:
        return None
    if on_match.action is not None:
        return on_match.action
    assert on_match.matcher is not None
    return evaluate(on_match.matcher, seen)


def _tree(matcher: Matcher, seen: Seen) -> TypedExtensionConfig | None:
    tree = matcher.matcher_tree
    assert tree is not None and tree.input is not None
    value = seen.read(tree.input)
    if value is None:
        return None
    if tree.exact_match_map is not None:
        assert tree.exact_match_map.map, "Envoy rejects an empty map"
        return _follow(tree.exact_match_map.map.get(value), seen)
    if tree.prefix_match_map is not None:
        assert tree.prefix_match_map.map, "Envoy rejects an empty map"
        for length in range(len(value), 0, -1):
            found = _follow(tree.prefix_match_map.map.get(value[:length]), seen)
            if found is not None:
                return found
        return None
    raise AssertionError(tree)


def _holds(predicate: MatcherMatcherListPredicate, seen: Seen) -> bool:
    if predicate.and_matcher is not None:
        return all(_holds(part, seen) for part in predicate.and_matcher.predicate)
    if predicate.or_matcher is not None:
        return any(_holds(part, seen) for part in predicate.or_matcher.predicate)
    if predicate.not_matcher is not None:
        return not _holds(predicate.not_matcher, seen)
    single = predicate.single_predicate
    assert single is not None and single.input is not None and single.value_match is not None
    value = seen.read(single.input)
    if value is None:
        return False
    if single.value_match.safe_regex is not None:
        return re2.compile(single.value_match.safe_regex.regex).fullmatch(value) is not None
    if single.value_match.suffix:
        return value.endswith(single.value_match.suffix)
    return value == single.value_match.exact


def _domains(matcher: Matcher) -> bytes | None:
    found = matcher.matcher_tree.custom_match if matcher.matcher_tree is not None else None
    if found is None:
        return None
    assert found.typed_config is not None
    assert found.typed_config.type_url.endswith("xds.type.matcher.v3.ServerNameMatcher")
    return found.typed_config.value


def _of_domain(matcher: bytes, name: str) -> MatcherOnMatch | None:
    """As Envoy's domain matcher: the name itself, else of the domains that it is in the first that is listed."""
    listed: dict[str, MatcherOnMatch] = {}
    for number, entry in fields(matcher, "matcher"):
        assert number == 1
        parts = [(number, submessage(part, "entry")) for number, part in fields(submessage(entry, "matcher"), "entry")]
        (on_match,) = [MatcherOnMatch.parse(part) for number, part in parts if number == 2]
        domains = [part.decode() for number, part in parts if number == 1]
        assert domains and not listed.keys() & set(domains), "Envoy rejects no domain and one that comes twice"
        listed |= dict.fromkeys(domains, on_match)
    if name in listed:
        return listed[name]
    labels = name.split(".")
    holding = {f"*.{'.'.join(labels[at:])}" for at in range(1, len(labels))}
    return next((on_match for domain, on_match in listed.items() if domain in holding), None)
