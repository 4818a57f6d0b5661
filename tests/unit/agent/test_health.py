"""What answers make of a backend, by table; and real answers of real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
from lockgate.agent.force.health import Health, HealthChecker, Target, probe
from lockgate.policies.service import Backend, HealthCheck, HealthKind

LOOPBACK = ip_address("127.0.0.1")


@pytest.mark.parametrize(
    ("answers", "up"),
    [
        ("+", True),
        ("-", False),
        ("+--", True),
        ("+---", False),
        ("+--+--", True),
        ("+---+", False),
        ("+---++", True),
        ("+---+-+", False),
        ("-+", False),
        ("-++", True),
    ],
)
def test_answers_in_a_row(answers: str, up: bool) -> None:
    health = Health()
    for answer in answers:
        health = health.after("" if answer == "+" else "status 503", HealthCheck(rise=2, fall=3))
    assert health.up is up


def test_what_served_before_the_agent_started_is_up_until_it_fails() -> None:
    health, check = Health(True), HealthCheck(fall=2)
    assert (health := health.after("refused", check)).up
    assert health.after("refused", check).up is False
    assert health.after("refused", check).why == "refused"


@asynccontextmanager
async def server(answer: bytes | None) -> AsyncIterator[int]:
    """Answers every connection so; None: never."""
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await silent.wait()
        else:
            writer.write(answer)
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield made.sockets[0].getsockname()[1]
    finally:
        silent.set()
        made.close()


def target(port: int, kind: HealthKind = HealthKind.HTTP, **more: object) -> Target:
    return Target(Backend(LOOPBACK, port), HealthCheck(kind, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "status 503"),
        (b"hello\r\n\r\n", "no HTTP"),
        (b"", "no HTTP"),
        (None, "no answer in 0.2 s"),
    ],
)
async def test_http(answer: bytes | None, why: str) -> None:
    async with server(answer) as port:
        said = await probe(target(port, timeout=0.2))
    assert said.startswith(why) and bool(said) == bool(why)


async def test_tcp() -> None:
    async with server(b"") as port:
        assert await probe(target(port, HealthKind.TCP)) == ""
        elsewhere = Target(Backend(LOOPBACK, 1), HealthCheck(HealthKind.TCP, port=port))
        assert await probe(elsewhere) == ""
    assert "refused" in await probe(target(port, HealthKind.TCP))
    assert "refused" in await probe(target(port))


async def test_the_checker_tells_every_change_and_forgets_who_is_not_watched() -> None:
    changed = asyncio.Event()
    checker = HealthChecker(changed.set)
    async with server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as port:
        asked = target(port, interval=0.02, rise=1, fall=1)
        checker.watch({asked: False})
        assert checker.state(asked).up is None
        await changed.wait()
        assert checker.state(asked).up is True
        changed.clear()
    await changed.wait()
    assert checker.state(asked) == Health(False, 0, checker.state(asked).why)
    checker.watch({})
    assert checker.state(asked) == Health()
    await checker.close()
