"""The local API and its client, over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from lockgate.agent.errors import HostError, InputError, OtherVersionError, UnreachableError
from lockgate.agent.inspection.api import LocalApi, NoSuchPolicyError
from lockgate.agent.inspection.client import ask
from lockgate.agent.inspection.metrics_port import MetricsPort
from lockgate.envoy.errors import AdminUnreachableError
from lockgate.policies import Flow
from lockgate.tests.command_line import lockgate


class Answers:
    """A view that says which question it was asked."""

    async def status(self) -> Any:
        return {"asked": "status"}

    async def endpoints(self) -> Any:
        return ["endpoints"]

    async def identities(self) -> Any:
        return ["identities"]

    async def policies(self) -> Any:
        return ["policies"]

    async def policy(self, name: str) -> Any:
        if name == "missing":
            raise NoSuchPolicyError("no policy is called missing")
        return {"asked": name}

    async def xds(self) -> Any:
        raise RuntimeError("a fault of ours")

    async def datapath(self) -> Any:
        return {"asked": "datapath"}

    async def dns(self) -> Any:
        return {"asked": "dns"}

    async def services(self) -> Any:
        return ["services"]

    async def explain(self, flow: Flow) -> Any:
        return {"asked": [flow.source, flow.destination, flow.port, flow.protocol, str(flow.request)]}


class Silence(Answers):
    """A view of another version: objects in which nothing is as it is called here."""

    async def status(self) -> Any:
        return {}

    datapath = status

    async def endpoints(self) -> Any:
        return [{}]

    identities = policies = services = xds = endpoints

    async def policy(self, name: str) -> Any:
        return {}


class Numbers:
    """Metrics, while no Envoy answers."""

    async def text(self) -> bytes:
        return b"lockgate_ready 1\n"

    async def envoy(self) -> bytes:
        raise AdminUnreachableError("Envoy does not answer")


@pytest.fixture
async def run_dir(tmp_path: Path) -> AsyncIterator[Path]:
    api = LocalApi(tmp_path / "agent.sock", Answers(), Numbers())
    await api.start()
    yield tmp_path
    await api.stop()
    assert not (tmp_path / "agent.sock").exists()


async def asked(run_dir: Path, path: str) -> Any:
    return await asyncio.to_thread(ask, run_dir, path)


async def test_every_question_reaches_the_view(run_dir: Path) -> None:
    assert await asked(run_dir, "/v1/status") == {"asked": "status"}
    assert await asked(run_dir, "/v1/datapath") == {"asked": "datapath"}
    assert await asked(run_dir, "/v1/dns") == {"asked": "dns"}
    for name in ("endpoints", "identities", "policies"):
        assert await asked(run_dir, f"/v1/{name}") == [name]
    assert await asked(run_dir, "/v1/policies/default/api") == {"asked": "default/api"}


async def test_a_connection_is_explained(run_dir: Path) -> None:
    question = "/v1/explain?from=10.0.0.1&to=fd00%3A%3A1&port=80&protocol=TCP"
    assert await asked(run_dir, question) == {"asked": ["10.0.0.1", "fd00::1", 80, "TCP", "None"]}
    with pytest.raises(InputError, match=r"^'port' must be a number from 0 to 65535, not ''$"):
        await asked(run_dir, "/v1/explain?from=a&to=b")
    flow = {"from": "a", "to": "b", "port": 1, "dns": {"name": "c"}}
    answer = await asked(run_dir, f"/v1/explain?{urlencode({'flow': json.dumps(flow)})}")
    assert answer == {"asked": ["a", "b", 1, "TCP", "DNS query for c"]}
    with pytest.raises(InputError, match=r"^the flow is not JSON: "):
        await asked(run_dir, "/v1/explain?flow=%7B")


async def test_a_long_question_is_answered_and_an_endless_one_is_not_asked(run_dir: Path) -> None:
    path = "/" + "a" * 60_000
    flow = {"from": "a", "to": "b", "port": 1, "http": {"path": path}}
    answer = await asked(run_dir, f"/v1/explain?{urlencode({'flow': json.dumps(flow)})}")
    assert path in answer["asked"][4]
    with pytest.raises(InputError, match=r"^the question is too long for the agent; ask about files, with --policies"):
        await asked(run_dir, f"/v1/explain?flow={'a' * 70_000}")


async def test_only_root_may_ask(run_dir: Path) -> None:
    assert stat.S_IMODE((run_dir / "agent.sock").stat().st_mode) == 0o600


async def test_what_the_view_refuses_arrives_in_its_own_words(run_dir: Path) -> None:
    with pytest.raises(InputError, match=r"^no policy is called missing$") as refused:
        await asked(run_dir, "/v1/policies/missing")
    assert refused.value.exit_status == 1


async def test_an_agent_that_cannot_answer_is_no_answer(run_dir: Path) -> None:
    with pytest.raises(UnreachableError, match=r"HTTP status 500\) is no healthy agent") as refused:
        await asked(run_dir, "/v1/xds")
    assert refused.value.exit_status == 3


async def test_an_agent_of_another_version(run_dir: Path) -> None:
    with pytest.raises(OtherVersionError, match=r"does not know /v2/status: it is of another version"):
        await asked(run_dir, "/v2/status?x=y")
    answer = await asked(run_dir, "/v1/status")
    with pytest.raises(OtherVersionError, match=r"its answer has no 'agent'") as refused:
        answer["agent"]
    assert refused.value.exit_status == 3
    assert answer.get("agent") is None


@pytest.mark.parametrize(
    "command",
    [
        *("status", "policy list", "policy get x", "endpoint list", "identity list", "service list", "xds status"),
        *("xds resources", "datapath status"),
    ],
)
async def test_what_it_does_not_say_is_told_in_one_sentence(tmp_path: Path, command: str) -> None:
    api = LocalApi(tmp_path / "agent.sock", Silence(), Numbers())
    await api.start()
    ended = await asyncio.to_thread(lockgate, *command.split(), "--run-dir", tmp_path)
    assert (ended.status, ended.out) == (3, "")
    assert ended.sentence.startswith("the agent is of another version than this command: its answer has no '")
    await api.stop()


async def test_a_socket_that_a_killed_agent_left_is_no_agent_and_is_replaced(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "agent.sock")
    server.close()
    (tmp_path / "agent.sock").touch()
    with pytest.raises(UnreachableError, match="Connection refused"):
        await asked(tmp_path, "/v1/status")
    api = LocalApi(tmp_path / "agent.sock", Answers(), Numbers())
    await api.start()
    assert await asked(tmp_path, "/v1/status") == {"asked": "status"}
    await api.stop()


async def test_somebody_who_does_not_speak_http(tmp_path: Path) -> None:
    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "agent.sock"):
        with pytest.raises(UnreachableError, match="no agent answers"):
            await asked(tmp_path, "/v1/status")


async def got(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


async def test_metrics_are_on_the_socket(run_dir: Path) -> None:
    connector = aiohttp.UnixConnector(str(run_dir / "agent.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        assert await got(session, "http://agent/metrics") == (200, "lockgate_ready 1\n")
        assert await got(session, "http://agent/metrics/envoy") == (503, "Envoy does not answer\n")


async def starting() -> Any:
    return {"agent": {"state": "starting"}, "envoy": {"state": "running", "sentence": "running, pid 7"}}


async def degraded() -> Any:
    return {"agent": {"state": "degraded"}, "envoy": {"state": "running", "sentence": "running, pid 7"}}


async def down() -> Any:
    return {"agent": {"state": "degraded"}, "envoy": {"state": "waiting", "sentence": "down, killed"}}


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (starting, (503, "agent starting, Envoy running, pid 7\n")),
        (degraded, (200, "ready\n")),
        (down, (503, "agent degraded, Envoy down, killed\n")),
    ],
)
async def test_probes_on_the_port(status: Callable[[], Awaitable[Any]], answer: tuple[int, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = MetricsPort(port, Numbers(), status)
    await served.start()
    async with aiohttp.ClientSession() as session:
        assert await got(session, f"http://127.0.0.1:{port}/alive") == (200, "alive\n")
        assert await got(session, f"http://127.0.0.1:{port}/ready") == answer
    await served.stop()


async def test_metrics_on_a_port_and_nothing_else_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(HostError, match=f"metrics_port 127.0.0.1:{port} cannot be used .another program has it"):
            probe.listen()
            await MetricsPort(port, Numbers(), starting).start()
    served = MetricsPort(port, Numbers(), starting)
    await served.start()
    async with aiohttp.ClientSession() as session:
        assert await got(session, f"http://127.0.0.1:{port}/metrics") == (200, "lockgate_ready 1\n")
        assert (await got(session, f"http://127.0.0.1:{port}/v1/status"))[0] == 404
    await served.stop()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_port_is_none() -> None:
    served = MetricsPort(0, Numbers(), starting)
    before = descriptors()
    await served.start()
    assert descriptors() == before
    await served.stop()
