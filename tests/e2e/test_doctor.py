"""`lockgate datapath doctor` with its packets: all legs work here, nothing is left, and what is broken is named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lockgate.agent.demo.site import Site
from lockgate.tests.e2e.live_node import PATIENCE

LEGS = {
    *("unpoliced", "straight on", "no rule", "by Envoy, with the client's address", "denied by Envoy"),
    "as somebody else",
}


@pytest.fixture
def name() -> Iterator[str]:
    made = f"dr{uuid.uuid4().hex[:6]}"
    yield made
    left = traces(made)
    Site(made).clean(lambda _: None)  # whatever a test that failed has left
    assert left == []


def traces(name: str) -> list[str]:
    """What a run under this name has made and not taken away."""
    folders = (Path("/run/netns"), Path("/run"), Path("/sys/fs/bpf"))
    found = [str(path) for folder in folders if folder.is_dir() for path in folder.iterdir() if name in path.name]
    processes = subprocess.run(["pgrep", "-f", f"run/lockgate-{name}"], capture_output=True, text=True, check=False)
    return [*found, *processes.stdout.split()]


def command(name: str) -> list[str]:
    run = [sys.executable, "-P", "-m", "lockgate", "datapath", "doctor", "-o", "json", "--probe-name", name]
    return [*run, "--run-dir", f"/run/none-{name}"]


def probes(out: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(out)["checks"] if check["group"] == "probe"}


def test_every_leg_works_here_also_after_a_run_that_was_killed(name: str) -> None:
    first = subprocess.Popen(command(name), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 3 * PATIENCE
        while not Path(f"/run/lockgate-{name}/admin.sock").exists():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert traces(name), "it was killed half-way"
    ended = subprocess.run(command(name), capture_output=True, text=True, check=False)
    checks = probes(ended.stdout)
    assert {key.rpartition(", IPv")[0] for key in checks if key != "agent"} == LEGS
    assert len(checks) == 2 * len(LEGS) + 1
    assert {check["state"] for check in checks.values()} == {"ok"}, checks
    assert ended.stderr == ""


def test_an_agent_that_cannot_start_is_told(name: str) -> None:
    ended = subprocess.run(
        ["setpriv", "--bounding-set=-net_raw", "--", *command(name)], capture_output=True, text=True, check=False
    )
    checks = probes(ended.stdout)
    assert ended.returncode == 1
    assert checks["agent"]["state"] == "fail"
    assert "root lacks CAP_NET_RAW here" in checks["agent"]["found"]
    assert set(checks) == {"unpoliced, IPv4", "unpoliced, IPv6", "agent"}
