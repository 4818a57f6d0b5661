"""An agent in a container on a machine with control groups of version 2 alone: a container has a view of its own there,
in which its group looks like the root."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from lockgate.tests.e2e.cluster_node import cgroups
from lockgate.tests.e2e.live_node import DENIED, OK, PATIENCE, LiveNode, fetch

SERVICE = """
services:
- {name: api, selector: {app: api-server}, vips: [10.96.0.11], ports: [{port: 8000, targetPort: 80}]}
"""
SHOWN = "true"  # the machine's /sys/fs/cgroup stays to be seen
HIDDEN = "umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup"  # as each container has it by default

# That of this test may have version 1 too: there nobody is in a group.
_NOWHERE = "for file in /sys/fs/cgroup/*/cgroup.procs; do echo 0 > $file; done"


class Machine:
    """Processes of their own, of which the first is in the root of all groups, and version 2 alone mounted."""

    def __init__(self) -> None:
        script = ["set -e", _NOWHERE, "umount -R /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup", "echo ready"]
        command = [
            "unshare",
            "--mount",
            "--propagation=slave",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
        ]
        self._process = subprocess.Popen(
            [*command, "\n".join([*script, "while :; do sleep 1; done"])], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.first = int(children.read_text())

    def inside(self, *words: str) -> tuple[str, ...]:
        """The words before a command that make it run there."""
        outside = ("sh", "-c", f'{_NOWHERE}; exec "$@"', "sh")
        return (*outside, "nsenter", f"--pid=/proc/{self.first}/ns/pid", f"--mount=/proc/{self.first}/ns/mnt", *words)

    def group_of(self, pid: int) -> str:
        """Of a process that has this number there."""
        command = [*self.inside("grep", "^0::", f"/proc/{pid}/cgroup")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def close(self) -> None:
        """All its processes end."""
        self._process.kill()
        self._process.communicate()


class Container:
    """A control group whose processes end together."""

    def __init__(self, machine: Machine, seen: str) -> None:
        self.name = f"lg-{uuid4().hex[:8]}"
        self._group = cgroups() / self.name
        self._group.mkdir()
        script = f"set -e; echo 0 > /sys/fs/cgroup/{self.name}/cgroup.procs; "
        script += f'exec unshare --cgroup --mount --propagation=slave sh -c \'{seen}; exec "$@"\' sh "$@"'
        self.words = machine.inside("sh", "-c", script, "sh")

    def end(self) -> None:
        """As an engine or a kubelet ends it: everybody who is in the group."""
        (self._group / "cgroup.kill").write_text("1")

    def close(self) -> None:
        """Whoever is left in it ends."""
        self.end()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.01)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with closing(Machine()) as made:
        yield made


@pytest.fixture(scope="module")
def live(machine: Machine) -> Iterator[LiveNode]:
    with closing(LiveNode()) as node:
        node.replace(node.workloads, node.ground.workloads_yaml() + SERVICE)
        yield node
        assert node.clean(machine.inside()).status == 0


def start(live: LiveNode, inside: Container, said: str = "envoy_cgroup: /\n") -> None:
    config = live.folder / "config.yaml"
    config.write_text(said)
    with live.log_path.open("ab") as log:
        command = [*inside.words, *live.command("--config", config)]
        live.agent = live.node.popen(command, stdout=log, stderr=log, start_new_session=True)


def ends(live: LiveNode) -> None:
    """Waits until the agent has."""
    assert live.agent is not None
    live.agent.wait(PATIENCE)
    live.agent = None


def ask(live: LiveNode, path: str) -> str:
    return fetch(live.frontend, live.api.ipv4, 80, path)


def test_envoy_outlives_its_agents_container(machine: Machine, live: LiveNode) -> None:
    """The next container's agent adopts it. A service's address leads to its backends for who is in another group."""
    with closing(Container(machine, SHOWN)) as first:
        start(live, first)
        live.until("all is well", live.ok)
        envoy = live.envoy_pid()
        assert {machine.group_of(each) for each in (envoy, live.supervisor_pid())} == {"0::/"}
        assert machine.group_of(live.status()["agent"]["pid"]) == f"0::/{first.name}"
        assert fetch(live.frontend, "10.96.0.11", 8000, "/api/v1/users") == OK
        first.end()
        ends(live)
        assert (ask(live, "/api/v1/users"), ask(live, "/api/v1/admin")) == (OK, DENIED)
    with closing(Container(machine, SHOWN)) as second:
        start(live, second)
        live.until("all is well", live.ok)
        assert live.envoy_pid() == envoy
        assert (ask(live, "/api/v1/users"), ask(live, "/api/v1/admin")) == (OK, DENIED)
        assert fetch(live.frontend, "10.96.0.11", 8000, "/api/v1/users") == OK
        second.end()
        ends(live)


def test_a_container_that_is_shown_only_its_own_group(machine: Machine, live: LiveNode) -> None:
    """Programs there would see nobody's sockets."""
    assert live.clean(machine.inside()).status == 0
    with closing(Container(machine, HIDDEN)) as made:
        start(live, made, "{}\n")
        live.until("it says so", lambda: any("bind the host's /sys/fs/cgroup" in each for each in live.problems()))
        made.end()
        ends(live)
