"""A machine on which an agent cannot start: one sentence on standard error that says what to do, and status 1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from lockgate.agent.settings import Settings
from lockgate.redirect.kernel import netns
from lockgate.tests.command_line import Ended
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, LiveNode, fetch, live_node

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        yield node


def without(script: str) -> tuple[str, ...]:
    """A prefix that runs `script` first, in a mount namespace of its own."""
    return ("unshare", "--mount", "--propagation=private", "sh", "-ec", f'{script}; exec "$0" "$@"')


def refused(ended: Ended) -> str:
    assert (ended.status, ended.out) == (1, ""), ended
    return ended.sentence


def test_not_root(node: LiveNode) -> None:
    for ended in (node.try_agent(inside=NOBODY), node.clean(inside=NOBODY)):
        sentence = refused(ended)
        assert sentence.startswith("not root: ")
        assert sentence.endswith("run it with sudo")


def test_root_without_its_rights(node: LiveNode) -> None:
    """As in a container that is not privileged."""
    ended = node.try_agent(inside=("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"))
    assert refused(ended) == (
        "root lacks CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN here: give the container (or service) "
        "these capabilities"
    )


def test_demo_as_nobody() -> None:
    command = [*NOBODY, sys.executable, "-P", "-m", "lockgate", "demo"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("lockgate: not root: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            "umount --lazy $(findmnt --noheadings --output TARGET --types cgroup2)",
            "no cgroup v2 hierarchy is mounted: ",
        ),
        ("mount -t tmpfs none /sys/kernel/btf", "the kernel has no BTF (/sys/kernel/btf/vmlinux): use a kernel built "),
        ("mount -t tmpfs none /sys/fs", "/sys/fs/bpf does not exist: "),
    ],
    ids=["cgroup2", "BTF", "BPF file system"],
)
def test_a_lack_of_the_machine(node: LiveNode, script: str, sentence: str) -> None:
    assert refused(node.try_agent(inside=without(script))).startswith(sentence)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_busy_port(node: LiveNode, family: socket.AddressFamily, address: str) -> None:
    with netns.run_in(node.node.path, lambda: socket.create_server((address, 15001), family=family)):
        sentence = refused(node.try_agent())
        shown = f"[{address}]" if ":" in address else address
        assert sentence.startswith(f"Envoy's port {shown}:15001 cannot be used (Address already in use): ")
    assert "stop it, or set another http_port in the --config file" in sentence


def test_another_port(node: LiveNode) -> None:
    """The way out that the sentence names."""
    config = node.folder / "config.yaml"
    config.write_text("http_port: 15999\nconcurrency: 1\n")
    with netns.run_in(node.node.path, lambda: socket.create_server(("127.0.0.1", 15001))):
        node.start_agent("--config", config)
        assert fetch(node.frontend, node.api.ipv4, 80, "/") == DENIED
        assert fetch(node.frontend, node.api.ipv6, 80, "/") == DENIED
    addresses = node.lockgate("envoy", "listeners").out
    assert "127.0.0.1:15999" in addresses
    assert node.lockgate("envoy", "server-info", "-o", "json").data["command_line_options"]["concurrency"] == 1
    node.end_agent()
    assert node.clean().status == 0


def test_files_that_are_not_there(node: LiveNode) -> None:
    away = node.workloads.rename(f"{node.workloads}.away")
    try:
        assert refused(node.try_agent()).startswith(f"{node.workloads}: no such file or directory")
    finally:
        away.rename(node.workloads)


def test_a_state_directory_of_somebody_else(node: LiveNode) -> None:
    state = node.folder / "state"
    state.mkdir(exist_ok=True)
    for path in state.glob("accepted.db*"):
        path.unlink()
    (state / "accepted.db").write_text("my notes, which are longer than the head of a database\n" * 10)
    sentence = refused(node.try_agent())
    assert sentence.startswith(f"{state}/accepted.db: file is not a database; ")
    (state / "accepted.db").unlink()


def test_a_run_dir_with_a_long_name(node: LiveNode) -> None:
    """Unix sockets have no room for it."""
    run_dir = node.folder / ("x" * 100)
    assert "107 bytes" in refused(node.try_agent(run_dir=run_dir))
    assert not Settings(node.policies, node.workloads, run_dir=run_dir).pin_dir.exists(), (
        "nothing is left in the kernel"
    )


def test_an_envoy_that_is_none(node: LiveNode) -> None:
    assert "is not an ELF program" in refused(node.try_agent("--envoy", "/etc/passwd"))


def test_pins_of_another_layout(node: LiveNode) -> None:
    """What a version with other maps has left is not adopted by guesswork."""
    node.start_agent()
    node.end_agent()
    maps = node.settings.pin_dir / "maps"
    (maps / "policy").unlink()
    os.link(maps / "config", maps / "policy")
    sentence = refused(node.try_agent())
    assert "policy" in sentence
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED, "the old ones go on"
    assert node.clean().status == 0
    assert not node.settings.pin_dir.exists()
