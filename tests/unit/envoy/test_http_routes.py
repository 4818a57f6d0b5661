"""Which route a request takes, and which filters do not run on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from itertools import product

import pytest
from lockgate.envoy.config.http_routes import ABSENT_FORWARDED_PROTO, mark_absent_forwarded_proto, routes
from lockgate.envoy.config.messages import early_mutation, matcher, route

JUDGING = {"client": "the.client", "server": "the.server"}
PROTO = "x-forwarded-proto"


def taken(headers: Mapping[str, str], state: Mapping[str, str]) -> route.Route:
    """The first route whose conditions all hold, as Envoy finds it."""
    for candidate in routes("onwards", JUDGING).virtual_hosts[0].routes:
        match = candidate.match
        assert match is not None
        path = headers[":path"]
        fits = match.safe_regex is None or re.fullmatch(match.safe_regex.regex, path.partition("?")[0])
        if (
            fits
            and all(holds(each, headers) for each in match.headers)
            and all(is_so(each, state) for each in match.filter_state)
        ):
            return candidate
    raise AssertionError("no route")


def holds(wanted: route.HeaderMatcher, headers: Mapping[str, str]) -> bool:
    value, asked = headers.get(wanted.name), wanted.string_match
    assert asked is not None
    found = value is not None and (asked.contains in value if asked.contains else value == asked.exact)
    return found is not wanted.invert_match


def is_so(wanted: matcher.FilterStateMatcher, state: Mapping[str, str]) -> bool:
    assert wanted.key and wanted.string_match is not None and wanted.string_match.suffix
    return state.get(wanted.key, "").endswith(wanted.string_match.suffix)


def headers(path: str = "/a", proto: str = ABSENT_FORWARDED_PROTO) -> dict[str, str]:
    return {":path": path, PROTO: proto}


def off(found: route.Route) -> set[str]:
    for config in found.typed_per_filter_config.values():
        assert config.unpack() == route.FilterConfig(disabled=True)
    return set(found.typed_per_filter_config)


@pytest.mark.parametrize("proto", [ABSENT_FORWARDED_PROTO, "https"])
@pytest.mark.parametrize(
    ("state", "skipped"),
    [
        ({"the.client": "3:3:in", "the.server": "5:5:in"}, set()),
        ({"the.client": "2:2:out", "the.server": "5:5:in"}, {"client"}),
        ({"the.client": "3:3:in", "the.server": "2:2:out"}, {"server"}),
        ({"the.server": "5:5:in"}, set()),
        ({"the.client": "nobody", "the.server": ""}, set()),
        ({"the.client": "2:2:out"}, {"client"}),
        ({}, set()),
    ],
)
def test_only_the_filter_of_an_end_that_is_elsewhere_is_left_out(
    proto: str, state: dict[str, str], skipped: set[str]
) -> None:
    assert off(taken(headers(proto=proto), state)) == skipped


def test_of_two_ends_elsewhere_at_least_one_filter_is_left_out() -> None:
    assert off(taken(headers(), {"the.client": "2:2:out", "the.server": "2:2:out"}))


def test_without_filters_to_leave_out_all_of_them_run() -> None:
    assert not any(each.typed_per_filter_config for each in routes("onwards").virtual_hosts[0].routes)


def test_every_request_goes_on_and_keeps_what_it_said_of_its_scheme() -> None:
    values = ("2:2:out", "3:3:in", None)
    for client, server, (proto, kept) in product(values, values, ((ABSENT_FORWARDED_PROTO, False), ("http", True))):
        state = {key: value for key, value in (("the.client", client), ("the.server", server)) if value}
        found = taken(headers(proto=proto), state)
        assert found.route is not None and found.route.cluster == "onwards"
        assert found.route.timeout == found.route.idle_timeout == timedelta(0)
        assert found.request_headers_to_remove == ([] if kept else [PROTO])


def test_the_mark_is_what_the_routes_look_for() -> None:
    config = mark_absent_forwarded_proto().typed_config
    assert config is not None
    mutation = config.unpack()
    assert isinstance(mutation, early_mutation.HeaderMutation)
    append = mutation.mutations[0].append
    assert append is not None and append.header is not None
    assert (append.header.key, append.header.value) == (PROTO, ABSENT_FORWARDED_PROTO)


@pytest.mark.parametrize("path", ["/a/..;x/b", "/.;/b", "/..;", "/a/.;b?c"])
def test_dots_that_a_server_may_read_otherwise_are_refused(path: str) -> None:
    found = taken(headers(path), {})
    assert found.direct_response is not None and found.direct_response.status == 400


@pytest.mark.parametrize("path", ["/a;x/b", "/a.;b", "/...;x", "/a?b=/..;c", "/"])
def test_other_parameters_pass(path: str) -> None:
    assert taken(headers(path), {}).route is not None
