"""Which route a request takes, and which filters do not run on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st
from lockgate.envoy.config.http_routes import (
    ABSENT_FORWARDED_PROTO,
    MOST_LISTED,
    Spared,
    mark_absent_forwarded_proto,
    routes,
)
from lockgate.envoy.config.messages import early_mutation, matcher, route
from lockgate.policies.http_path import LONGEST, judged_path
from lockgate.xds import end_text

CLIENTS, SERVERS = frozenset({70001, 70010}), frozenset({80001})
SPARED = (
    Spared("client", "the.client", CLIENTS),
    Spared("server", "the.server", SERVERS),
)
PROTO = "x-forwarded-proto"
ELSEWHERE = end_text(2, here=False)


def taken(headers: Mapping[str, str], state: Mapping[str, str], spared: Sequence[Spared] = SPARED) -> route.Route:
    """The first route whose conditions all hold, as Envoy finds it."""
    for candidate in routes("onwards", ("client", "server"), spared).virtual_hosts[0].routes:
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
    if asked.safe_regex is not None:
        found = value is not None and re2.fullmatch(asked.safe_regex.regex, value) is not None
    else:
        found = value is not None and (asked.contains in value if asked.contains else value == asked.exact)
    return found is not wanted.invert_match


def is_so(wanted: matcher.FilterStateMatcher, state: Mapping[str, str]) -> bool:
    asked, value = wanted.string_match, state.get(wanted.key)
    assert wanted.key and asked is not None
    if value is None:
        return False
    if asked.safe_regex is not None:
        assert asked.safe_regex.regex, "it would find what is empty"
        return re2.fullmatch(asked.safe_regex.regex, value) is not None
    assert asked.suffix
    return value.endswith(asked.suffix)


def ends(client: str | int | None, server: str | int | None) -> dict[str, str]:
    """The filter state of two ends: identities of endpoints of this node, texts, or nothing."""
    told = (("the.client", client), ("the.server", server))
    return {end: end_text(who, here=True) if isinstance(who, int) else who for end, who in told if who is not None}


def headers(path: str = "/a", proto: str = ABSENT_FORWARDED_PROTO) -> dict[str, str]:
    return {":path": path, PROTO: proto}


def off(found: route.Route) -> set[str]:
    for config in found.typed_per_filter_config.values():
        assert config.unpack() == route.FilterConfig(disabled=True)
    return set(found.typed_per_filter_config)


@pytest.mark.parametrize("proto", [ABSENT_FORWARDED_PROTO, "https"])
@pytest.mark.parametrize(
    ("client", "server", "skipped"),
    [
        (3, 5, set()),
        (ELSEWHERE, 5, {"client"}),
        (3, ELSEWHERE, {"server"}),
        (None, 5, set()),
        (3, None, set()),
        (ELSEWHERE, None, {"client"}),
        (None, None, set()),
        (70001, 5, {"client"}),
        (70010, 5, {"client"}),
        (3, 80001, {"server"}),
        (None, 80001, {"server"}),
        # Nothing but the number itself, at its own end.
        (80001, 70001, set()),
        (7000, 8000, set()),
        (700010, 800010, set()),
        (170001, 180001, set()),
        (70002, 80002, set()),
    ],
)
def test_only_the_filter_of_an_end_that_nobody_judges_is_left_out(
    proto: str, client: str | int | None, server: str | int | None, skipped: set[str]
) -> None:
    assert off(taken(headers(proto=proto), ends(client, server))) == skipped


@pytest.mark.parametrize("skipping", [SPARED, [replace(each, identities=()) for each in SPARED]])
def test_an_end_elsewhere_is_spared_whoever_it_is(skipping: Sequence[Spared]) -> None:
    for identity in (2, 70001, 80001, 16777217):
        assert off(taken(headers(), ends(end_text(identity, here=False), 5), skipping)) == {"client"}
        assert off(taken(headers(), ends(3, end_text(identity, here=False)), skipping)) == {"server"}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":in",
            "17:in",
            "17::in",
            "70001",
            "17:70001",
            "17:70001:",
            "17:70001:in\n",
            " 17:70001:in",
            "17:70001:in:",
        ),
        *("17:70001|70010:in", "17:070001:in", "17:7000.:in", "17:70001:In", "x:70001:in", "17:70001:in:out:in"),
    ],
)
def test_what_is_no_listed_end_is_judged(text: str) -> None:
    assert off(taken(headers(), ends(text, text))) == set()


def test_of_two_ends_that_nobody_judges_at_least_one_filter_is_left_out() -> None:
    clients: tuple[str | int, ...] = (ELSEWHERE, 70001)
    servers: tuple[str | int, ...] = (ELSEWHERE, 80001)
    for client, server in product(clients, servers):
        assert off(taken(headers(), ends(client, server)))


@given(
    st.frozensets(st.integers(1, 200)),
    st.frozensets(st.integers(1, 200)),
    st.integers(1, 200),
    st.integers(1, 200),
)
def test_nobody_is_spared_who_is_not_listed(
    clients: frozenset[int], servers: frozenset[int], client: int, server: int
) -> None:
    spared = [replace(each, identities=listed) for each, listed in zip(SPARED, (clients, servers), strict=True)]
    skipped = off(taken(headers(), ends(client, server), spared))
    assert ("client" in skipped) is (client in clients)
    assert ("server" in skipped) is (server in servers and client not in clients)


def test_what_is_listed_is_bounded_and_the_rest_is_judged() -> None:
    many = frozenset(range(1, MOST_LISTED + 3))
    spared = [replace(SPARED[0], identities=many)]
    assert off(taken(headers(), ends(MOST_LISTED, 5), spared)) == {"client"}
    for left_out in (MOST_LISTED + 1, MOST_LISTED + 2):
        assert off(taken(headers(), ends(left_out, 5), spared)) == set()
    assert len(bytes(routes("onwards", ("client", "server"), spared))) < 2 * 8 * MOST_LISTED


def test_equal_identities_give_equal_bytes() -> None:
    made = {
        bytes(routes("onwards", ("client", "server"), [replace(SPARED[0], identities=each)]))
        for each in ([3, 1, 2], {1, 2, 3})
    }
    assert len(made) == 1


def test_without_filters_to_leave_out_all_of_them_run_wherever_a_request_goes_on() -> None:
    for each in routes("onwards", ("client", "server")).virtual_hosts[0].routes:
        assert not each.typed_per_filter_config or each.direct_response is not None


def test_what_is_too_long_is_refused_before_any_policy_is_asked() -> None:
    longest = "/" + "a" * 100 + "?" + "b" * (LONGEST - 102)
    assert judged_path(longest).path == longest and not judged_path(longest + "b").path
    assert taken(headers(longest), {}).route is not None
    for fields in (
        headers(longest + "b"),
        headers() | {":authority": "a" * (LONGEST + 1)},
        headers() | {":method": "A" * (LONGEST + 1)},
    ):
        found = taken(fields, {})
        assert found.direct_response is not None and found.direct_response.status == 400
        assert off(found) == {"client", "server"}
    assert taken(headers() | {":authority": "a" * LONGEST}, {}).route is not None


def test_every_request_goes_on_and_keeps_what_it_said_of_its_scheme() -> None:
    clients: tuple[str | int | None, ...] = (ELSEWHERE, 3, 70001, None)
    servers: tuple[str | int | None, ...] = (ELSEWHERE, 3, 80001, None)
    protos = ((ABSENT_FORWARDED_PROTO, False), ("http", True))
    for proto, kept in protos:
        for client, server in product(clients, servers):
            found = taken(headers(proto=proto), ends(client, server))
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
