"""The systemd unit, run by a systemd of its own: what it takes away from the agent is nothing that the agent needs.

That systemd is the first process of a PID namespace, in the node's network, and knows no unit but ours. Of the unit
only the paths are others (a drop-in); /run, /var/lib and /var/cache are its own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.tests.e2e.live_node import DENIED, OK, PATIENCE, Line, LiveNode, fetch, live_node

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = REPOSITORY / "compose" / "systemd" / "lockgate.service"
RIGHTS = 1 << 12 | 1 << 13 | 1 << 19 | 1 << 21  # NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN
_INIT = """
set -e
mount --make-rslave /
mkdir {folder}/run
mount --rbind /run {folder}/run
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mount -t tmpfs none /var/cache
mkdir -p /run/netns /run/lock /run/systemd {run_dir}
mount --rbind {folder}/run/netns /run/netns
mount --bind {folder}{run_dir} {run_dir}
exec env -i container=test SYSTEMD_UNIT_PATH={folder}/units SYSTEMD_LOG_TARGET=console PATH="$PATH" /lib/systemd/systemd
"""
_DROP_IN = """
[Service]
ExecStart=
ExecStart={command}
RuntimeDirectory=
RuntimeDirectory={run_dir.name}
BindReadOnlyPaths={folder} {repository}
StandardOutput=append:{log}
StandardError=append:{log}
"""


class Systemd:
    """A systemd with the unit as its only service."""

    def __init__(self, node: LiveNode) -> None:
        self._node = node
        folder = node.folder
        units = folder / "units"
        (units / "lockgate.service.d").mkdir(parents=True)
        # Not in /tmp, of which each start of the service has another one.
        node.run_dir = Path(f"/run/{folder.name}")
        node.run_dir.mkdir(mode=0o700)
        (units / "lockgate.service").write_bytes(UNIT.read_bytes())
        drop_in = _DROP_IN.format(
            command=" ".join(node.command()),
            folder=folder,
            repository=REPOSITORY,
            run_dir=node.run_dir,
            log=node.log_path,
        ).replace(f"--state-dir {folder}/state", "")
        if REPOSITORY.is_relative_to("/tmp"):
            drop_in += (
                "PrivateTmp=no\nReadWritePaths=/tmp\n"  # Envoy outlives the service's /tmp, and must find its own files
            )
        (units / "lockgate.service.d" / "test.conf").write_text(drop_in)
        for target in ("sysinit", "basic", "shutdown"):  # which every service depends on
            (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (units / "default.target").write_text("[Unit]\nWants=lockgate.service\n")
        self._log = (folder / "systemd.log").open("wb")
        own = ["--fork", "--pid", "--mount", "--cgroup", "--ipc", "--mount-proc", "--kill-child"]
        self._process = node.node.popen(
            ["unshare", *own, "sh", "-c", _INIT.format(folder=folder, run_dir=node.run_dir)],
            stdout=self._log,
            stderr=self._log,
        )

    def agent(self) -> int:
        """The agent's process, as it is called here."""
        found = subprocess.run(
            ["pgrep", "-f", f"agent run .*{self._node.run_dir}"], capture_output=True, text=True, check=True
        )
        (pid,) = map(int, found.stdout.split())
        return pid

    def close(self) -> None:
        """Ends it, and with it everything in its PID namespace."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._log.close()


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        yield made
    shutil.rmtree(made.run_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def systemd(node: LiveNode) -> Iterator[Systemd]:
    made = Systemd(node)
    try:
        node.until("the service is ready", node.ok)
        yield made
    finally:
        made.close()


def test_it_enforces_with_these_rights_alone(node: LiveNode, systemd: Systemd) -> None:
    assert fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users") == OK
    assert fetch(node.frontend, node.api.ipv6, 80, "/api/v1/admin") == DENIED
    assert fetch(node.frontend, node.backend.ipv4, 8080) == OK
    status = Path(f"/proc/{systemd.agent()}/status").read_text()
    rights = {name: int(value, 16) for name, value in re.findall(r"Cap(\w+):\s+(\w+)", status)}
    assert (rights["Prm"], rights["Eff"], rights["Bnd"], rights["Amb"]) == (RIGHTS, RIGHTS, RIGHTS, 0)
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_the_agent_dies_and_systemd_brings_another_which_adopts_envoy(node: LiveNode, systemd: Systemd) -> None:
    envoy = node.envoy_pid()
    before = systemd.agent()
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask("/api/v1/users")) == OK
        os.kill(before, signal.SIGKILL)
        node.until("another agent is ready", lambda: node.ok() and systemd.agent() != before)
        assert str(line.ask("/api/v1/users")) == OK
        assert str(line.ask("/api/v1/admin")) == DENIED
    assert node.envoy_pid() == envoy
    assert fetch(node.intruder, node.api.ipv4, 80, "/api/v1/users", patience=0.4) == "dropped"
