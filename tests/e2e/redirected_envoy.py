"""The node's Envoy in a network namespace in which TCP to port 8080 is redirected to it.

The kernel's part is played by nft TPROXY, so that what is tested here needs no BPF. Clients are 10.9.0.2, 10.9.0.3 and
fd00:9::2, servers 10.9.0.10 and fd00:9::10, all of them addresses of the loopback device.
"""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import BootstrapSettings, bootstrap
from lockgate.envoy.config.http_listener import HttpListener
from lockgate.envoy.inspection.admin import Admin
from lockgate.envoy.running import run_files
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.envoy.running.process import EnvoyProcess, EnvoyStatus
from lockgate.envoy.running.run_files import HANG
from lockgate.tests.e2e.pinned_ipcache import PinnedIpcache, pinned_ipcache
from lockgate.tests.unit.xds.policy_strategies import endpoint, ipcache

PATIENCE = 30.0
CLONE_NEWNET = 0x40000000
NAMESPACE = """
ip link set lo up
ip addr add 10.9.0.2/32 dev lo
ip addr add 10.9.0.3/32 dev lo
ip addr add 10.9.0.10/32 dev lo
ip addr add fd00:9::2/128 dev lo nodad
ip addr add fd00:9::10/128 dev lo nodad
nft -f - <<'END'
table inet lockgate {
    chain prerouting {
        type filter hook prerouting priority mangle
        meta mark != 0xa00 tcp dport 8080 meta nfproto ipv4 tproxy ip to 127.0.0.1:15001 accept
        meta mark != 0xa00 tcp dport 8080 meta nfproto ipv6 tproxy ip6 to [::1]:15001 accept
        meta mark != 0xa00 tcp dport 8080 drop
    }
}
END
"""
CLIENT, OTHER_CLIENT, SERVER = "10.9.0.2", "10.9.0.3", "10.9.0.10"
CLIENT6, SERVER6 = "fd00:9::2", "fd00:9::10"
THE_CLIENT = endpoint("default/client", 300, CLIENT, CLIENT6)
THE_SERVER = endpoint("default/server", 400, SERVER, SERVER6)
IPCACHE = ipcache({"0.0.0.0/0": 9, "::/0": 10, f"{OTHER_CLIENT}/32": 301})  # besides those two


@pytest.fixture(name="namespace", autouse=True)
def namespace_of_its_own() -> Iterator[None]:
    """Puts the test into a new network namespace, which goes away with the last process in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot make a network namespace; these tests need root")
        try:
            subprocess.run(["sh", "-ec", NAMESPACE], check=True)
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(name="run_dir")
def short_run_dir() -> Iterator[Path]:
    """Short enough for Unix sockets, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="lockgate-envoy-") as directory:
        run_dir = Path(directory)
        with pinned_ipcache(IPCACHE, (THE_CLIENT, THE_SERVER), run_dir.name):
            yield run_dir


async def until(what: str, true: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        await asyncio.sleep(0.02)


def settings(run_dir: Path, *, first_policy_timeout: float = PATIENCE, **http: object) -> BootstrapSettings:
    listener = HttpListener(first_policy_timeout=first_policy_timeout, **http)  # type: ignore[arg-type]
    pinned = PinnedIpcache(Path("/sys/fs/bpf") / run_dir.name)
    pinned.close()
    return BootstrapSettings(run_dir=run_dir, node_id="test", ipcache=pinned.envoy, http=listener)


def process(
    run_dir: Path, content: bytes | None = None, control_group: str = "", hang: float = HANG, patience: float = 60.0
) -> EnvoyProcess:
    if content is None:
        content = bootstrap(settings(run_dir, first_policy_timeout=0.1))
    binary = find_binary()
    module = find_module(binary)
    return EnvoyProcess(
        run_dir,
        binary,
        content,
        module=module,
        concurrency=2,
        drain=2,
        control_group=control_group,
        hang=hang,
        patience=patience,
    )


@asynccontextmanager
async def running(run_dir: Path, content: bytes | None = None, hang: float = HANG) -> AsyncIterator[EnvoyProcess]:
    envoy = process(run_dir, content, hang=hang)
    try:
        await envoy.ensure()
        yield envoy
    finally:
        await envoy.stop()


@asynccontextmanager
async def ready(run_dir: Path, content: bytes | None = None) -> AsyncIterator[Admin]:
    async with running(run_dir, content), Admin(run_dir / "admin.sock") as admin:
        await until("Envoy is ready", admin.ready)
        yield admin


def is_alive(pid: int) -> bool:
    return run_files.start_ticks(pid) is not None


def pid_of(status: EnvoyStatus) -> int:
    assert status.envoy_pid is not None
    return status.envoy_pid


def supervisor_of(status: EnvoyStatus) -> int:
    assert status.supervisor_pid is not None
    return status.supervisor_pid
