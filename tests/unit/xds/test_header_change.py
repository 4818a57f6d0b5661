"""What is done to headers: byte for byte what envoy-data-plane builds whole, and in step with the bootstrap."""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import ExecuteFilterAction, FilterChainConfiguration
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation as Filter
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import Mutations
from envoy_data_plane.envoy.extensions.filters.http.set_metadata.v3 import Config, Metadata
from envoy_data_plane.google.protobuf import Any, Struct
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig as Action
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch
from lockgate.envoy.config import access_log, http_routes
from lockgate.policies.endpoint_policy import HeaderMatch, MismatchAction
from lockgate.policies.header_action import HeaderAction
from lockgate.xds.compile import header_change, header_condition
from lockgate.xds.compile.header_change import NOTHING, Change, changes

ADD, DELETE, LOG, REPLACE = MismatchAction.ADD, MismatchAction.DELETE, MismatchAction.LOG, MismatchAction.REPLACE


def change(action: MismatchAction, name: str, value: str | None = None, rule: str = "", secret: bool = False) -> Change:
    return Change(rule, HeaderAction(action, name, value, secret))


def written(name: str, value: str, how: HeaderValueOptionHeaderAppendAction) -> HeaderMutation:
    header = HeaderValue(key=name, value=value)
    return HeaderMutation(append=HeaderValueOption(header=header, append_action=how, keep_empty_value=True))


def filter_of(*mutations: HeaderMutation, name: str = "headers") -> TypedExtensionConfig:
    body = Filter(mutations=Mutations(request_mutations=list(mutations))) if mutations else Filter()
    return TypedExtensionConfig(name=name, typed_config=Any.pack(body))


def metadata_of(*notes: str) -> TypedExtensionConfig:
    value = Struct.from_dict({"rules": list(notes)})
    metadata = Metadata(metadata_namespace="lockgate.mismatch", value=value, allow_overwrite=True)
    return TypedExtensionConfig(name="log", typed_config=Any.pack(Config(metadata=[metadata])))


def action_of(execute: ExecuteFilterAction) -> bytes:
    return bytes(MatcherOnMatch(action=Action(name="run", typed_config=Any.pack(execute))))


OVERWRITE = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
APPEND = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD


def test_changes_are_one_filter_in_their_order() -> None:
    listed = [change(DELETE, "x-a", "1"), change(ADD, "x-b", "50% é"), change(REPLACE, "x-c")]
    whole = filter_of(HeaderMutation(remove="x-a"), written("x-b", "50%% é", APPEND), written("x-c", "", OVERWRITE))
    assert changes(listed) == action_of(ExecuteFilterAction(typed_config=whole))


def test_logging_is_a_filter_of_its_own() -> None:
    logged = [change(LOG, "x-a", "1", rule="default/p:spec"), change(LOG, "x-b", rule="default/q:spec")]
    notes = metadata_of("default/p:spec x-a", "default/q:spec x-b")
    assert changes(logged) == action_of(ExecuteFilterAction(typed_config=notes))
    both = FilterChainConfiguration(typed_config=[filter_of(written("x-c", "1", OVERWRITE)), notes])
    assert changes([*logged, change(REPLACE, "x-c", "1")]) == action_of(ExecuteFilterAction(filter_chain=both))


def test_nothing_is_an_action_too() -> None:
    assert changes([]) == NOTHING == action_of(ExecuteFilterAction(typed_config=filter_of()))


def test_what_holds_a_secret_is_marked() -> None:
    marked = filter_of(written("x-a", "hush", OVERWRITE), name="secret")
    assert changes([change(REPLACE, "x-a", "hush", secret=True)]) == action_of(ExecuteFilterAction(typed_config=marked))
    assert b"hush" not in bytes(changes([change(LOG, "x-a", "hush", "r", secret=True), change(DELETE, "x-b", "hush")]))
    secret, plain = (header_condition.holds(HeaderMatch("x-a", "hush", secret=each)) for each in (True, False))
    assert secret == plain.replace(b"\x0a\x06header", b"\x0a\x06secret")


def test_the_names_that_the_bootstrap_shares() -> None:
    assert (header_change.LOGGED_NAMESPACE, header_change.LOGGED_KEY) == (
        access_log.MISMATCH_NAMESPACE,
        access_log.MISMATCH_KEY,
    )
    assert header_condition.ABSENT_FORWARDED_PROTO == http_routes.ABSENT_FORWARDED_PROTO
