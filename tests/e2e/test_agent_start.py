"""Starts after the machine: of the agent before there is nothing but what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, LiveNode, fetch, live_node

USERS, ADMIN = "/api/v1/users", "/api/v1/admin"
WITHOUT_BCC = "mount -t tmpfs none {}"


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        yield made


@pytest.fixture(autouse=True)
def ended(node: LiveNode) -> Iterator[None]:
    yield
    if node.agent is not None:
        node.end_agent()
    assert node.clean().status == 0


def start(node: LiveNode, cache_dir: Path, script: str = "") -> None:
    """After `script`, in a mount namespace of its own."""
    inside = ["unshare", "--mount", "--propagation=private", "sh", "-ec", f'{script or ":"}; exec "$0" "$@"']
    with node.log_path.open("wb") as log:
        command = [*inside, *node.command("--cache-dir", cache_dir)]
        node.agent = node.node.popen(command, stdout=log, stderr=log, start_new_session=True)
    node.until("the agent is ready", node.ok)


def enforced(node: LiveNode) -> None:
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert fetch(node.frontend, node.api.ipv6, 80, ADMIN) == DENIED
    assert fetch(node.frontend, node.backend.ipv4, 8080) == OK
    assert fetch(node.intruder, node.backend.ipv6, 8080, patience=GLANCE) == DROPPED


def test_after_a_reboot_no_compiler_is_needed(node: LiveNode) -> None:
    cache = node.folder / "cache"
    start(node, cache)
    (kept,) = (cache / "programs").iterdir()
    enforced(node)
    made = kept.stat()
    node.end_agent()
    assert node.clean().status == 0
    assert kept.stat().st_ino == made.st_ino, "it is the machine's, not the agent's"
    bcc = find_spec("bcc")
    assert bcc is not None and bcc.origin is not None
    start(node, cache, WITHOUT_BCC.format(Path(bcc.origin).parent))
    enforced(node)
    assert "compile" not in node.log
    assert kept.stat().st_ino == made.st_ino
    node.end_agent()
    assert node.clean().status == 0
    kept.chmod(0o666)
    start(node, cache)
    assert f"{kept} is not used, as it may be written by others than root (mode 666)" in node.log
    enforced(node)
    assert kept.stat().st_mode & 0o777 == 0o600, "another one is in its place"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("mount -t tmpfs -o ro none {}", "Read-only file system"),
        ("mount -t tmpfs -o size=8k none {}", "No space left on device"),
    ],
    ids=["read-only", "full"],
)
def test_where_nothing_can_be_kept_the_agent_says_so_and_goes_on(node: LiveNode, script: str, reason: str) -> None:
    cache = node.folder / "narrow"
    cache.mkdir(exist_ok=True)
    start(node, cache, script.format(cache))
    (told,) = [line for line in node.log.splitlines() if "not kept" in line]
    assert f"{cache}: {reason}; --cache-dir names a folder that root can write" in told
    enforced(node)
