"""What of an engine's store needs no engine: memory, absence, events. Else: tests/e2e/test_agent_containers.py."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from lockgate.store import ContainerNetwork, EngineStore
from lockgate.store.container import Container, Network
from lockgate.store.engine import _of_networks, _whom
from lockgate.store.process import born


def remembered(path: Path, *containers: Container) -> EngineStore:
    path.write_text(json.dumps([each.to_json() for each in containers]))
    return EngineStore(f"unix://{path.parent}/nobody.sock", path)


async def test_what_runs_stays_while_the_engine_is_away(tmp_path: Path) -> None:
    pid = os.getpid()
    runs = Container("1", "runs", "default", pid, born(pid) or 0, networks=(Network("bridge", ("10.0.0.2",)),))
    other = replace(runs, id="2", name="another-process-by-now", born=1)
    gone = replace(runs, id="3", name="gone", pid=2**22 - 1)
    content = await remembered(tmp_path / "memory.json", runs, other, gone).read()
    assert [document.source for document in content.workloads] == [f"unix://{tmp_path}/nobody.sock/runs"]
    (problem,) = content.problems
    assert "the engine does not answer" in problem


async def test_networks_stay_too(tmp_path: Path) -> None:
    network = {"name": "web", "bridge": "br-web", "subnets": ["172.18.0.0/16"]}
    memory = tmp_path / "memory.json"
    memory.write_text(json.dumps({"containers": [], "networks": [network]}))
    content = await EngineStore(f"unix://{tmp_path}/nobody.sock", memory).read()
    assert content.networks == (ContainerNetwork("web", "br-web", (ip_network("172.18.0.0/16"),)),)
    opened = await EngineStore(f"unix://{tmp_path}/nobody.sock", memory, closed=False).read()
    assert opened.networks == ()


@pytest.mark.parametrize("text", ["", "[", "[{}]", '[{"id": "1"}]', "{}", "7", '{"containers": [], "networks": [7]}'])
async def test_a_memory_that_is_none(tmp_path: Path, text: str) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text(text)
    content = await EngineStore(f"unix://{tmp_path}/nobody.sock", memory).read()
    assert content.workloads == ()


@pytest.mark.parametrize(
    ("event", "number"),
    [
        ({"Type": "container", "Action": "start", "Actor": {"ID": "c"}}, "c"),
        ({"Type": "container", "Action": "died", "id": "c"}, "c"),
        ({"Type": "container", "Action": "exec_start: sh", "Actor": {"ID": "c"}}, None),
        ({"Type": "container", "Action": "health_status: healthy", "Actor": {"ID": "c"}}, None),
        ({"Type": "network", "Action": "connect", "Actor": {"ID": "n", "Attributes": {"container": "c"}}}, "c"),
        ({"Type": "network", "Action": "disconnect", "Actor": {"ID": "c", "Attributes": {"name": "web"}}}, "c"),
        ({"Type": "network", "Action": "create", "Actor": {"ID": "n"}}, None),
    ],
)
def test_whom_an_event_is_about(event: dict[str, object], number: str | None) -> None:
    assert _whom(json.dumps(event).encode()) == number
    assert _whom(b"\r") is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"Type": "network", "Action": "create", "Actor": {"ID": "n"}}, True),
        ({"Type": "network", "Action": "destroy", "Actor": {"ID": "n"}}, True),
        ({"Type": "container", "Action": "create", "id": "c"}, True),
        ({"Type": "container", "status": "init", "id": "c"}, True),
        ({"Type": "container", "Action": "exec_start: sh", "Actor": {"ID": "c"}}, False),
    ],
)
def test_after_which_events_there_may_be_other_networks(event: dict[str, object], expected: bool) -> None:
    assert _of_networks(json.dumps(event).encode()) is expected
    assert not _of_networks(b"")
