"""Whose requests are spared the policy filter while worlds come into force: never those that a policy judges."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.agent.force import applier as module
from lockgate.agent.force.applied import Applied
from lockgate.agent.force.applier import Applier
from lockgate.envoy.config.http_routes import ROUTES
from lockgate.policies import World
from lockgate.policies.endpoint_policy import Direction
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.errors import MapFullError
from lockgate.tests.unit.agent.recorded_node import HTTP_PORT, KAFKA, L4, L7, TLS, Recorded, world
from lockgate.tests.unit.agent.test_http_side import spared
from lockgate.xds import ROUTE, Outcome, Settled, Snapshot, XdsServer, policed_by

CLIENT_L7 = L7.replace("app: server", "app: client").replace("ingress:", "egress:").replace("policy,", "client,")
WORLDS = ("", L4, L7, CLIENT_L7, f"{L4}---{CLIENT_L7}", f"{L7}---{CLIENT_L7}")


def policed(of: World) -> frozenset[tuple[int, Direction]]:
    """Who has a policy for Envoy in this world."""
    return policed_by((each, of.policy_of(each)) for each in of.endpoints)


def spared_in(snapshot: Snapshot) -> set[tuple[int, Direction]]:
    return {(identity, direction) for direction, found in spared(snapshot).items() for identity in found}


async def test_an_end_is_judged_from_before_its_policy_is_in_force_until_after_it_has_gone(
    node: Recorded, applier: Applier
) -> None:
    """What is not known of an earlier agent's kernel counts as a policy of everybody's."""
    client = next(each.identity for each in world().endpoints if each.workload.name == "client")
    egress = (client, Direction.EGRESS)
    judged = {}
    for name, policy in (
        ("none", L7),
        ("comes", f"{L7}---{CLIENT_L7}"),
        ("stays", f"{L7}---{CLIENT_L7}"),
        ("goes", L7),
    ):
        node.published.clear()
        assert await applier.apply(world(policy)) == Applied()
        judged[name] = [egress not in spared_in(each) for each in node.published]
    assert judged == {"none": [True, False], "comes": [True], "stays": [True], "goes": [True, False]}


async def test_a_refused_policy_changes_nobody_who_is_judged_by_one_in_force(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(f"{L7}---{CLIENT_L7}"))
    node.answers = [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no such matcher"),))]
    for policy in ("", L7, CLIENT_L7):
        assert (await applier.apply(world(policy))).nacks
        assert not policed(world(f"{L7}---{CLIENT_L7}")) & spared_in(node.published[-1])


async def test_refused_routes_hold_up_nothing_and_spare_nobody(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    node.answers = [Settled(Outcome.NACKED, (((ROUTE, ROUTES), "too large"),)), Settled(Outcome.ACKED)]
    applied = await applier.apply(world(f"{L7}---{CLIENT_L7}"))
    assert node.events == ["publish", "wait", "publish", "wait", "maps"]
    assert not spared_in(node.published[-1])
    assert not applied.nacks and not applied.problems, "nothing has to be tried again"
    assert "too large" in applied.unspared
    assert node.proxy_ports() == {HTTP_PORT}
    assert (await applier.apply(world(L7))).unspared == ""


async def test_when_envoy_refuses_any_routes_the_change_ends(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    node.answers = [Settled(Outcome.NACKED, (((ROUTE, ROUTES), "no routes at all"),))]
    applied = await applier.apply(world(f"{L7}---{CLIENT_L7}"))
    assert applied.nack == f"{ROUTES}: no routes at all"
    assert "maps" not in node.events


STEPS = st.lists(
    st.tuples(
        st.sampled_from(WORLDS),
        st.sampled_from([(7, 8), (7,), ()]),
        st.sampled_from(["acked", "refused", "routes refused", "silent", "envoy down", "map full"]),
    ),
    min_size=1,
    max_size=8,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_nobody_is_spared_a_policy_that_is_in_force(
    steps: list[tuple[str, tuple[int, ...], str]],
) -> None:
    """Envoy may be at what was published last or, while it has not answered, at what it was before. Those whose policy
    the kernel has or is about to have are judged in both."""

    async def run() -> None:
        node = Recorded()
        applier = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: node.envoy_runs, TLS, KAFKA)
        for policy, local, what in steps:
            wanted = world(policy, local)
            node.envoy_runs, node.full = what != "envoy down", what == "map full"
            node.answers = {
                "refused": [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no"),))],
                "routes refused": [Settled(Outcome.NACKED, (((ROUTE, ROUTES), "no"),)), Settled(Outcome.ACKED)],
                "silent": [Settled(Outcome.TIMEOUT)],
                "envoy down": [Settled(Outcome.NO_CLIENT)],
            }.get(what, [Settled(Outcome.ACKED)])
            before = applier.world
            node.published = node.published[-1:]

            def judged(wanted: World = wanted) -> None:
                assert not policed(wanted) & spared_in(node.published[-1])

            node.before_maps = judged
            with suppress(MapFullError):
                await applier.apply(wanted)
            in_force = applier.world
            for snapshot in node.published[-2:] if in_force is before else node.published[-1:]:
                assert in_force is None or not policed(in_force) & spared_in(snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ACK_SECONDS", 0.0)
        asyncio.run(run())
