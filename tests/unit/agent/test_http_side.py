"""Who is spared a policy filter, and what becomes of routes that Envoy refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.agent.force.http_side import HttpSide
from lockgate.envoy.config.http_routes import ROUTES
from lockgate.envoy.config.messages import route
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    ResolvedRule,
)
from lockgate.policies.workload import Endpoint
from lockgate.tests.unit.xds.policy_strategies import endpoint, origin
from lockgate.xds import FILTER_CONFIG, ROUTE, SHARDS, Outcome, Policed, Resource, Settled, Snapshot, policed_by

CLIENT, SERVER, OTHER = (endpoint(f"default/{name}", 300 + n, f"10.0.0.{n}") for n, name in enumerate(("a", "b", "c")))
L4 = DirectionPolicy(True, (ResolvedRule(origin("l4"), False, frozenset({9}), None, None),))
L7 = DirectionPolicy(True, (ResolvedRule(origin("l7"), False, None, None, HttpRules((HttpRule("/"),))),))
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
FILTERS = {"lockgate.http.egress": EGRESS, "lockgate.http.ingress": INGRESS}


def spared(snapshot: Snapshot) -> Mapping[Direction, set[int]]:
    """The identities whose requests do not run through a direction's filter, as the routes say it."""
    (resource,) = snapshot.of_type(ROUTE).values()
    assert resource.name == ROUTES
    found: dict[Direction, set[int]] = {direction: set() for direction in Direction}
    for each in route.RouteConfiguration.parse(resource.body).virtual_hosts[0].routes:
        assert each.match is not None
        for name in each.typed_per_filter_config:
            for asked in each.match.filter_state:
                if asked.string_match is not None and asked.string_match.safe_regex is not None:
                    (numbers,) = re.findall(r"\(\?:([0-9|]+)\):in", asked.string_match.safe_regex.regex)
                    found[FILTERS[name]] |= set(map(int, numbers.split("|")))
    return found


def told(
    *pairs: tuple[Endpoint, EndpointPolicy], policed: Policed | None = None, side: HttpSide | None = None
) -> Snapshot:
    return (side or HttpSide()).resources(pairs, policed_by(pairs) if policed is None else policed).snapshot()


def the_route(snapshot: Snapshot) -> Resource:
    return snapshot.of_type(ROUTE)[ROUTES]


def test_an_end_without_a_policy_for_envoy_is_spared_in_that_direction() -> None:
    found = spared(
        told(
            (CLIENT, EndpointPolicy(ingress=L7)),
            (SERVER, EndpointPolicy(ingress=L4, egress=L7)),
            (OTHER, EndpointPolicy()),
        )
    )
    assert found == {EGRESS: {300, 302}, INGRESS: {301, 302}}


def test_who_is_policed_now_or_was_before_is_judged_whatever_the_policies_say() -> None:
    pairs = ((CLIENT, EndpointPolicy()), (SERVER, EndpointPolicy(ingress=L7)))
    both = policed_by(pairs) | {(300, EGRESS)}
    assert spared(told(*pairs, policed=both)) == {EGRESS: {301}, INGRESS: {300}}
    everyone = frozenset((each.identity, direction) for each, _ in pairs for direction in Direction)
    assert spared(told(*pairs, policed=everyone)) == {EGRESS: set(), INGRESS: set()}


def test_of_one_identity_one_endpoint_with_a_policy_is_enough() -> None:
    replica = endpoint("default/replica", 300, "10.0.0.9")
    found = spared(told((CLIENT, EndpointPolicy()), (replica, EndpointPolicy(egress=L7))))
    assert found == {EGRESS: set(), INGRESS: {300}}


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), max_size=8))
def test_who_is_spared_has_no_tree_and_who_has_one_is_judged(drawn: list[tuple[int, bool, bool]]) -> None:
    pairs = [
        (
            endpoint(f"default/{n}", identity, f"10.0.0.{n}"),
            EndpointPolicy(egress=L7 if egress else L4, ingress=L7 if ingress else DirectionPolicy()),
        )
        for n, (identity, egress, ingress) in enumerate(drawn)
    ]
    policed = policed_by(pairs)
    found = spared(told(*pairs))
    for direction in Direction:
        identities = {each.identity for each, _ in pairs}
        assert found[direction] == {each for each in identities if (each, direction) not in policed}


def test_the_routes_are_another_resource_only_when_somebody_else_is_spared() -> None:
    side = HttpSide()
    first = told((CLIENT, EndpointPolicy()), (SERVER, EndpointPolicy(ingress=L7)), side=side)
    another = DirectionPolicy(True, (ResolvedRule(origin("other"), False, None, None, HttpRules((HttpRule("/b"),))),))
    replica = endpoint("default/replica", 300, "10.0.0.9")
    pairs = ((CLIENT, EndpointPolicy()), (replica, EndpointPolicy()), (SERVER, EndpointPolicy(ingress=another)))
    second = told(*pairs, side=side)
    assert the_route(second) is the_route(first)
    assert second != first
    third = told((CLIENT, EndpointPolicy(egress=L7)), (SERVER, EndpointPolicy(ingress=L7)), side=side)
    assert the_route(third) != the_route(first)
    assert len(first.of_type(FILTER_CONFIG)) == 2 * SHARDS


@pytest.mark.parametrize("resource", [(FILTER_CONFIG, ROUTES), (ROUTE, "other")])
def test_another_refusal_is_none_of_its_business(resource: tuple[str, str]) -> None:
    side = HttpSide()
    told((CLIENT, EndpointPolicy()), side=side)
    assert not side.gives_way(Settled(Outcome.NACKED, ((resource, "no"),)))
    assert not side.gives_way(Settled(Outcome.ACKED))
    assert side.problem == ""


def test_instead_of_routes_that_are_refused_everybody_is_judged_until_others_would_be_spared() -> None:
    side, refused = HttpSide(), Settled(Outcome.NACKED, (((ROUTE, ROUTES), "too large"),))
    pairs = ((CLIENT, EndpointPolicy()), (SERVER, EndpointPolicy(ingress=L7)))
    assert spared(told(*pairs, side=side))[EGRESS]
    assert side.gives_way(refused)
    for _ in range(2):
        assert spared(told(*pairs, side=side)) == {EGRESS: set(), INGRESS: set()}
        assert "lockgate.http: too large" in side.problem
    assert not side.gives_way(refused), "there is nothing simpler"
    more = (*pairs, (OTHER, EndpointPolicy()))
    assert spared(told(*more, side=side))[EGRESS] == {300, 301, 302}
    assert side.problem == ""
