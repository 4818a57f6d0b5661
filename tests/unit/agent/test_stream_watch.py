"""Which running streams are ended."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from lockgate.agent.force.stream_watch import StreamWatch
from lockgate.envoy.config.access_log import SocketEnd
from lockgate.envoy.config.running_stream import RunningStream
from lockgate.policies import World
from lockgate.policies.request import HttpRequest
from lockgate.redirect.errors import RedirectError, SystemRefusedError
from lockgate.tests.unit.policies.test_ongoing import INGRESS, POLICY, world

STREAM = RunningStream(
    SocketEnd(ip_address("10.0.0.1"), 40000),
    SocketEnd(ip_address("10.0.0.2"), 80),
    HttpRequest("GET", "/stream", "api"),
)
ALLOWING = world(POLICY.format(rule="{path: /stream}", **INGRESS))
REFUSING = world(POLICY.format(rule="{path: /other}", **INGRESS))


async def ended(*worlds: World, fault: RedirectError | None = None) -> tuple[list[RunningStream], int]:
    over: list[RunningStream] = []

    async def end(streams: Sequence[RunningStream]) -> None:
        if fault is not None:
            raise fault
        over.extend(streams)

    watch = StreamWatch()
    await watch.reported([STREAM])
    watch.judge_by(lambda: worlds, end)
    await watch.reported([STREAM, STREAM])
    return over, watch.ended


async def test_what_every_world_refuses() -> None:
    assert await ended(REFUSING) == ([STREAM], 1)
    assert await ended(ALLOWING) == ([], 0)


async def test_what_one_of_two_worlds_allows_goes_on() -> None:
    """Envoy may judge by either while a change is on its way."""
    assert await ended(REFUSING, ALLOWING) == ([], 0)
    assert await ended(ALLOWING, REFUSING) == ([], 0)


async def test_without_a_world_nothing_is_ended() -> None:
    assert await ended() == ([], 0)


async def test_what_cannot_be_ended_is_not_counted() -> None:
    assert await ended(REFUSING, fault=SystemRefusedError()) == ([], 0)
