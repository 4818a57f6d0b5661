"""The order in which a world comes into force. Envoy and the kernel are recorded here: the real ones cannot be stopped
between two steps (that each step works is tested end to end)."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any, cast

import pytest
from lockgate.agent.force import applier as module
from lockgate.agent.force.applied import Applied
from lockgate.agent.force.applier import Applier
from lockgate.policies import World
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.errors import MapFullError
from lockgate.redirect.plan import DatapathPlan
from lockgate.tests.unit.agent.recorded_node import HTTP_PORT, KAFKA, L4, L7, TLS, Recorded, carried, world
from lockgate.xds import Outcome, Settled, XdsServer


async def test_envoy_first_then_maps_then_programs_then_what_envoy_no_longer_needs(
    node: Recorded, applier: Applier
) -> None:
    assert await applier.apply(world(L7)) == Applied()
    assert node.events == ["publish", "wait", "maps", "attach 7", "attach 8", "publish"]
    assert node.proxy_ports() == {HTTP_PORT}


async def test_of_a_kernel_that_redirects_nothing_yet_nothing_is_trimmed(node: Recorded) -> None:
    first = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: True, TLS, KAFKA, redirecting=False)
    assert await first.apply(world(L7)) == Applied()
    assert node.events == ["publish", "wait", "maps", "attach 7", "attach 8"]


async def test_what_the_kernel_may_have_of_a_failed_change_stays_with_envoy(node: Recorded) -> None:
    """It may redirect to Envoy what the next change would let pass there."""
    first = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: True, TLS, KAFKA, redirecting=False)
    node.full = True
    with pytest.raises(MapFullError):
        await first.apply(world(L7))
    node.full, node.events = False, []
    assert await first.apply(world()) == Applied()
    assert node.events == ["publish", "wait", "maps", "attach 7", "attach 8", "publish"]


async def test_nothing_is_trimmed_when_nothing_can_be(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    await applier.apply(world(L7))
    assert node.events == ["publish", "wait", "maps"]


async def test_the_last_l7_rule_leaves_the_kernel_before_it_leaves_envoy(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    await applier.apply(world(L4))
    assert node.events == ["publish", "wait", "maps", "publish"]
    assert node.proxy_ports() == set()


async def test_an_endpoint_is_mute_until_a_world_that_has_it_is_in_force(node: Recorded, applier: Applier) -> None:
    """Also when Envoy refuses what comes with it."""
    node.answers = [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no such matcher"),))]
    await applier.mute(world(L7).endpoints)
    assert (await applier.apply(world(L7))).nacks
    assert node.events == ["attach 7", "attach 8", "publish", "wait"]
    assert not node.plan.endpoints
    await applier.mute(world(L7).endpoints)
    assert node.events[-1] == "wait", "once is enough"
    node.unreachable = {9}
    await applier.mute(world(L7, local=(7, 8, 9)).endpoints)


async def test_of_many_refusals_a_few_are_told(node: Recorded, applier: Applier) -> None:
    """One policy may be in the shards of many endpoints."""
    node.answers = [Settled(Outcome.NACKED, tuple((("type", f"shard.{n}"), "no") for n in range(5)))]
    assert (await applier.apply(world(L7))).nack == "shard.0: no; shard.1: no; shard.2: no; and 2 more"


async def test_what_envoy_refuses_never_reaches_the_kernel(node: Recorded, applier: Applier) -> None:
    node.answers = [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no such matcher"),))]
    applied = await applier.apply(world(L7))
    assert applied.nack == "lockgate.http.ingress: no such matcher"
    assert node.events == ["publish", "wait"]


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.NO_CLIENT])
async def test_what_a_living_envoy_has_not_confirmed_never_reaches_the_kernel(
    node: Recorded, applier: Applier, outcome: Outcome
) -> None:
    node.answers = [Settled(outcome)]
    applied = await applier.apply(world(L7))
    assert applied.unconfirmed
    assert applied.problems == (
        "Envoy runs, but has not answered to the last change yet: what it has to know for is dropped",
    )
    assert "maps" not in node.events


async def test_a_slow_envoy_is_waited_for(node: Recorded, applier: Applier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACK_SECONDS", 60.0)
    node.answers = [Settled(Outcome.NO_CLIENT), Settled(Outcome.TIMEOUT), Settled(Outcome.ACKED)]
    assert await applier.apply(world(L7)) == Applied()
    assert node.events[:5] == ["publish", "wait", "wait", "wait", "maps"]


@pytest.fixture
def impatient(applier: Applier, monkeypatch: pytest.MonkeyPatch) -> Applier:
    """Its Envoy has no time at all before the kernel is told what Envoy need not know."""
    for name in ("NARROW_SECONDS", "FIRST_SECONDS", "_OVERTAKEN_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(module, "ACK_SECONDS", 60.0)
    return applier


SILENT = [Settled(Outcome.TIMEOUT), Settled(Outcome.TIMEOUT), Settled(Outcome.ACKED)]
DROPS, SENDS, PASSES = {0}, {HTTP_PORT}, set[int]()


@pytest.mark.parametrize(
    ("before", "after", "meanwhile", "at_last"),
    [
        (L4, L7, DROPS, SENDS),
        ("", L7, DROPS, SENDS),
        (L7, L4, PASSES, PASSES),
        (L7, L7.replace("path: /", "path: /other"), SENDS, SENDS),
    ],
)
async def test_what_envoy_need_not_know_does_not_wait_for_it(
    node: Recorded, impatient: Applier, before: str, after: str, meanwhile: set[int], at_last: set[int]
) -> None:
    await impatient.apply(world(before))
    plans: list[set[int]] = []
    node.answers, node.events = [*SILENT], []
    node.before_maps = lambda: plans.append(node.proxy_ports())
    assert await impatient.apply(world(after)) == Applied()
    assert node.events[:5] == ["publish", "wait", "maps", "wait", "wait"]
    assert [plans[1], node.proxy_ports()] == [meanwhile, at_last]


async def test_what_envoy_refuses_late_stays_narrowed_until_it_takes_something(
    node: Recorded, impatient: Applier
) -> None:
    """It is told, and the next change that Envoy takes puts it right."""
    old, new = world(L4), world(L7)
    await impatient.apply(old)
    refused = Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no"),))
    node.answers = [Settled(Outcome.TIMEOUT), refused]
    assert (await impatient.apply(new)).nack == "lockgate.http.ingress: no"
    assert node.proxy_ports() == DROPS
    assert impatient.silence.startswith("Envoy refused the last change when the kernel had")
    assert list(impatient.judging) == [old, new]
    node.answers = [Settled(Outcome.ACKED)]
    assert await impatient.apply(old) == Applied()
    assert (node.proxy_ports(), impatient.silence, list(impatient.judging)) == (PASSES, "", [old])
    node.answers = [Settled(Outcome.TIMEOUT), refused]
    await impatient.apply(new)
    node.answers = [Settled(Outcome.ACKED)]
    assert await impatient.apply(new) == Applied()
    assert (node.proxy_ports(), impatient.silence, list(impatient.judging)) == (SENDS, "", [new])


async def test_something_newer_does_not_wait_for_an_envoy_that_is_silent(node: Recorded, impatient: Applier) -> None:
    old, second, third = world(L7), world(L4), world()
    await impatient.apply(old)
    node.answers, node.events = [Settled(Outcome.TIMEOUT)], []
    impatient.overtaken = lambda: True
    assert (await impatient.apply(second)).unconfirmed
    assert list(impatient.judging) == [old, second]
    assert impatient.world is second
    assert (await impatient.apply(third)).unconfirmed
    assert list(impatient.judging) == [old, third]
    assert node.events == ["publish", "wait", "maps", "publish", "wait", "maps"]
    node.answers = [Settled(Outcome.ACKED)]
    assert await impatient.apply(third) == Applied()
    assert list(impatient.judging) == [third]


async def test_an_endpoint_that_leaves_does_not_wait_for_envoy(node: Recorded, impatient: Applier) -> None:
    await impatient.apply(world(L7, local=(7, 8)))
    node.answers, node.events = [*SILENT], []
    assert await impatient.apply(world(L7, local=(7,))) == Applied()
    assert node.events[:5] == ["publish", "wait", "maps", "detach 8", "wait"]


async def test_a_kernel_that_refuses_meanwhile_is_tried_again(node: Recorded, impatient: Applier) -> None:
    await impatient.apply(world(L7))
    node.answers, node.full = [Settled(Outcome.TIMEOUT)], True
    with pytest.raises(MapFullError):
        await impatient.apply(world(L4))
    node.full, node.answers = False, [*SILENT]
    assert await impatient.apply(world(L4)) == Applied()
    assert node.proxy_ports() == PASSES


async def test_without_envoy_l4_comes_into_force_and_l7_is_dropped(node: Recorded, applier: Applier) -> None:
    node.envoy_runs, node.answers = False, [Settled(Outcome.NO_CLIENT)]
    applied = await applier.apply(world(L7))
    assert applied.unconfirmed, "it is tried again"
    assert applied.problems == ("Envoy is down: L7 is dropped",)
    assert node.proxy_ports() == {0}
    node.envoy_runs, node.answers = True, [Settled(Outcome.ACKED)]
    assert await applier.apply(world(L7)) == Applied()
    assert node.proxy_ports() == {HTTP_PORT}


async def test_an_endpoint_that_cannot_be_policed_does_not_hold_up_the_others(node: Recorded, applier: Applier) -> None:
    node.unreachable = {7}
    applied = await applier.apply(world(L4))
    assert applied.problems == ("endpoint default/client is not enforced: interface 7 does not exist",)
    assert node.interfaces == {8}


async def test_endpoints_that_are_gone_are_let_go_of_last(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L4, local=(7, 8)))
    node.events.clear()
    await applier.apply(world(L4, local=(9,)))
    assert node.events[:4] == ["publish", "wait", "maps", "attach 9"]
    assert sorted(node.events[4:6]) == ["detach 7", "detach 8"]
    assert node.events[6:] == ["publish"]  # Envoy keeps the identities that left until the kernel no longer says them


async def test_a_change_that_was_written_in_part_is_not_forgotten(node: Recorded, applier: Applier) -> None:
    """The maps may hold new addresses when a retry begins."""
    before = world(L4)
    await applier.apply(before)
    node.carries = carried()
    client, server = before.endpoints
    relabelled = replace(client, workload=replace(client.workload, labels=(("app", "other"),)))
    after = World.of(before.policies, [relabelled, server])
    apply = node.apply

    def half(plan: DatapathPlan) -> None:
        apply(plan)
        raise MapFullError("the policy map is full")

    cast(Any, node).apply = half
    with pytest.raises(MapFullError):
        await applier.apply(after)
    cast(Any, node).apply = apply
    await applier.apply(after)
    assert "end client's server's" in node.events


async def test_a_refusal_of_the_kernel_reaches_the_caller(node: Recorded, applier: Applier) -> None:
    node.full = True
    with pytest.raises(MapFullError):
        await applier.apply(world(L4))


def held_up(node: Recorded) -> tuple[threading.Event, threading.Event]:
    """The first is set when a change comes to the kernel's maps, which it writes when the second is."""
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(10)

    node.before_maps = wait
    return entered, go_on


async def test_looks_into_the_kernel_wait_for_their_turn(node: Recorded, applier: Applier) -> None:
    entered, go_on = held_up(node)
    applying = asyncio.create_task(applier.apply(world(L4)))
    await asyncio.to_thread(entered.wait, 10)
    look = asyncio.create_task(applier.kernel())
    await asyncio.sleep(0)
    assert not look.done()
    go_on.set()
    await applying
    assert (await look).attached == {7, 8}


async def test_an_agent_that_ends_waits_for_the_kernel(node: Recorded, applier: Applier) -> None:
    """Nothing is closed under a thread that still writes."""
    entered, go_on = held_up(node)
    applying = asyncio.create_task(applier.apply(world(L4)))
    await asyncio.to_thread(entered.wait, 10)
    applying.cancel()
    await asyncio.sleep(0)
    assert not applying.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert node.events[-1] == "attach 8", "it was done to its end"
