"""Envoy is replaced under load: by command, by an agent that wants another one, and, for comparison, by kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lockgate.bench.envoy_restart import RestartNode
from lockgate.bench.steady_load import KINDS
from lockgate.envoy.running.binary import find_binary
from lockgate.tests.command_line import lockgate


@pytest.fixture(name="folder", scope="module")
def short_folder() -> Iterator[Path]:
    """Short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="lg-hot-") as folder:
        yield Path(folder)


@pytest.fixture(name="node", scope="module")
def node_with_a_ready_agent(folder: Path) -> Iterator[RestartNode]:
    node = RestartNode(folder, f"{os.environ.get('PYTEST_XDIST_WORKER', 'e2e')}_{uuid.uuid4().hex[:6]}")
    try:
        node.await_ready()
        yield node
    finally:
        node.close()


def ended(load: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = load.communicate(timeout=60)
    assert load.returncode == 0
    result: dict[str, Any] = json.loads(output)
    assert result["done"].keys() == set(KINDS)
    return result


def test_nothing_fails_while_envoy_is_replaced(node: RestartNode, folder: Path) -> None:
    other = folder / "envoy"
    shutil.copy(find_binary().path, other)
    load = node.load()
    pids = [node.envoy_pid()]
    for _ in range(2):
        node.restart()
        pids.append(node.envoy_pid())
    node.replace_agent("--envoy", other)
    pids.append(node.envoy_pid())
    assert ended(load)["failures"] == []
    kafka = ("envoy", "stats", "-f", "^tcp.lockgate_kafka.downstream_cx_total", "-o", "json")
    (connections,) = lockgate(*kafka, "--run-dir", node.settings.run_dir).data.values()
    assert connections > 0, "that of Kafka too came through the last of them"
    assert len(set(pids)) == 4 and 0 not in pids
    assert Path(f"/proc/{pids[-1]}/exe").readlink() == other
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids[:-1])


def test_the_load_would_have_noticed(node: RestartNode) -> None:
    before = node.envoy_pid()
    load = node.load()
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while node.envoy_pid() in (0, before):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended(load)["failures"] != []


def test_a_restart_that_is_not_possible_says_why(node: RestartNode, folder: Path) -> None:
    node.await_ready()
    run_dir = node.settings.run_dir
    assert lockgate("envoy", "restart", "--run-dir", folder).status == 3
    first = lockgate("envoy", "restart", "--run-dir", run_dir)
    assert first.status == 0, first.err
    assert "has taken over from pid" in first.out
    second = lockgate("envoy", "restart", "--run-dir", run_dir)
    assert second.status == 1
    assert "still ends its last connections; try again when it is gone" in second.sentence
