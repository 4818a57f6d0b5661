"""What the data path hangs on is taken away under a running agent: what is denied stays denied, and it is put back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, LiveNode, fetch, live_node

BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"
OWN_BPFFS = 'mount -t bpf bpf /sys/fs/bpf; exec "$0" "$@"'


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    """Its agent has a BPF file system of its own, which all that it pins ends with."""
    with live_node(start=False) as made:
        inside = ["unshare", "--mount", "--propagation=slave", "sh", "-ec", OWN_BPFFS]
        with made.log_path.open("ab") as log:
            command = [*inside, *made.command()]
            made.agent = made.node.popen(command, stdout=log, stderr=log, start_new_session=True)
        made.until("the agent is ready", made.ok)
        yield made
        os.kill(made.supervisor_pid(), signal.SIGTERM)


def in_its_mounts(node: LiveNode, *command: object) -> str:
    assert node.agent is not None
    enter = ["nsenter", "--target", str(node.agent.pid), "--mount"]
    return subprocess.run([*enter, *map(str, command)], check=True, capture_output=True, text=True).stdout


def pinned(node: LiveNode) -> set[str]:
    return set(in_its_mounts(node, "find", node.settings.pin_dir, "-printf", "%P\n").splitlines())


def enforced(node: LiveNode) -> None:
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert fetch(node.frontend, node.api.ipv6, 80, ADMIN) == DENIED
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED


def changes_come_into_force(node: LiveNode) -> None:
    node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
    node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    enforced(node)
    node.write("allow-frontend-to-backend", BACKEND)
    node.becomes(OK, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.until("all is well", node.ok)


def test_the_file_system_of_pins_is_unmounted(node: LiveNode) -> None:
    before = pinned(node)
    in_its_mounts(node, "umount", "--lazy", "/sys/fs/bpf")
    enforced(node)
    changes_come_into_force(node)
    node.until("all is pinned anew", lambda: "pinned anew" in node.log and pinned(node) == before)
    changes_come_into_force(node)
    pod = node.ground.pod("late", labels={"app": "backend"})
    node.serve(pod, 8080)
    node.list_pods()
    node.becomes(DROPPED, lambda: fetch(node.intruder, pod.ipv4, 8080, patience=GLANCE))
    node.becomes(OK, lambda: fetch(node.frontend, pod.ipv4, 8080, patience=GLANCE))


def test_the_file_system_of_pins_is_read_only_for_a_while(node: LiveNode) -> None:
    in_its_mounts(node, "mount", "-o", "remount,ro", "/sys/fs/bpf")
    try:
        node.until("it is told", lambda: any("Read-only file system" in each for each in node.problems()))
        enforced(node)
        node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
        node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
        enforced(node)
    finally:
        in_its_mounts(node, "mount", "-o", "remount,rw", "/sys/fs/bpf")
    changes_come_into_force(node)


def test_somebody_takes_programs_off(node: LiveNode) -> None:
    """As `rm` below /sys/fs/bpf, `bpftool link detach` or another agent of root's does."""
    before = pinned(node)
    in_its_mounts(node, "sh", "-c", f"rm {node.settings.pin_dir}/links/{node.backend.ifindex}-*")
    node.becomes(DROPPED, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))
    node.until("they are back", lambda: pinned(node) == before)
    enforced(node)
    assert "has lost its programs" in node.log
