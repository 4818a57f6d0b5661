"""An agent that dies between two writes of one change, and what the real programs make of what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from lockgate.policies.endpoint_policy import EndpointPolicy, ResolvedRule
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.kernel.maps import PinnedMap
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.plan import DatapathPlan
from lockgate.redirect.planner import Planner
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    CLIENT,
    SERVER,
    WORLD,
    Kernel,
    frame,
    fresh,
    ingress,
    ip,
    rule,
    tcp,
)

NAMED = 80001  # the identity of a prefix that a policy names


class DiedError(Exception):
    pass


def plan(kernel: Kernel, *rules: ResolvedRule, named: bool) -> DatapathPlan:
    def endpoint(identity: int) -> Endpoint:
        pod = kernel.client if identity == CLIENT else kernel.server
        return Endpoint(Workload(str(identity), "default", ()), identity, pod.ips, pod.ifindex)

    owners = {ip_network("0.0.0.0/0"): 9, ip_network("::/0"): 10}
    if named:
        owners[ip_network("192.0.2.0/24")] = NAMED
    pods = [(endpoint(CLIENT), EndpointPolicy()), (endpoint(SERVER), ingress(*rules))]
    return Planner().plan(pods, owners)


def enters(kernel: Kernel) -> bool:
    packet = frame(ip(WORLD, kernel.server.ipv4, 6, tcp(next(fresh), 80)))
    found = kernel.run(Hook.FROM_UPLINK, kernel.outside.ifindex, packet)
    assert found.reason in (None, Reason.POLICY)
    return found.reason is None


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of calls that write or delete entries, of those to come, before one does nothing but die."""
    left: list[int] = []
    for name in ("put", "remove"):
        done = getattr(PinnedMap, name)

        def call(self: Any, entries: Any, done: Any = done) -> None:
            if left:
                left[0] -= 1
                if left[0] < 0:
                    raise DiedError
            done(self, entries)

        monkeypatch.setattr(PinnedMap, name, call)
    yield left
    left.clear()


@pytest.mark.parametrize("writes", range(8))
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("denied", [True, False])
def test_who_is_let_in_before_and_after_is_all_the_time_and_nobody_else(
    kernel: Kernel, dying: list[int], writes: int, named: bool, denied: bool
) -> None:
    """A policy names a prefix that another one means by `world`, or does no more."""

    def world(named: bool) -> DatapathPlan:
        peers = [9, NAMED] if named else [9]
        rules = [rule(peer, 80, deny=denied) for peer in peers]
        return plan(kernel, *rules, *((rule(None, 80),) if denied else ()), named=named)

    kernel.inside(lambda: kernel.datapath.apply(world(not named)))
    assert enters(kernel) is not denied
    dying.append(writes)
    try:
        kernel.inside(lambda: kernel.datapath.apply(world(named)))
    except DiedError:
        assert enters(kernel) is not denied
    else:
        assert writes > 5
    dying.clear()
    kernel.inside(lambda: kernel.datapath.apply(world(named)))
    assert enters(kernel) is not denied
    assert len(kernel.datapath.current.policy) == len(world(named).policy), "nothing is left behind"
