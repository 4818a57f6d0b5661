"""What a machine must have before an agent can start, each lack in one sentence that says what to do."""

from __future__ import annotations

import os
import platform
import stat
from pathlib import Path

from ...envoy.running.run_files import lock_holder
from ..errors import HostError
from ..settings import Settings
from .loopback_port import try_ports

OLDEST_KERNEL = (6, 6)  # tcx links
# eBPF, routes and entering namespaces; raw and transparent sockets; the namespaces of other processes.
_RIGHTS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21}


def require_host() -> None:
    """Checks this machine.

    Raises:
        HostError: the first thing that is missing.
    """
    if os.geteuid() != 0:
        raise HostError("not root: eBPF, network namespaces and transparent sockets need root; run it with sudo")
    missing = [name for name, bit in _RIGHTS.items() if not _effective_rights() >> bit & 1]
    if missing:
        raise HostError(f"root lacks {', '.join(missing)} here: give the container (or service) these capabilities")
    release = platform.release()
    if _kernel(release) < OLDEST_KERNEL:
        raise HostError(f"kernel {release} is too old: tcx links need 6.6 or newer; upgrade the kernel")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        raise HostError(
            "the kernel has no BTF (/sys/kernel/btf/vmlinux): use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        )
    if not _filesystem_known("bpf"):
        raise HostError("the kernel has no BPF file system: use a kernel built with CONFIG_BPF_SYSCALL=y")
    if not _mounted("cgroup2"):
        raise HostError("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def make_own_dir(path: Path, option: str) -> None:
    """Makes a directory of the agent's, for root only, unless it is there. `option` is how the user names it.

    Raises:
        HostError: it cannot be made, or others than root could put something of theirs into it: a database of policies
            that were accepted, a socket that Envoy asks.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise HostError(f"{option} {path}: {error.strerror}; give a folder that root can write") from None
    if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        whose = f"user {found.st_uid} owns it" if found.st_uid else "others than root may write it"
        raise HostError(f"{option} {path}: {whose}; give a folder of root's own, or one that does not exist yet")


def require_port(settings: Settings) -> None:
    """Envoy's ports must be free, or already be our own Envoy's (adoption after an agent's restart).

    Raises:
        HostError: another program has one.
    """
    if lock_holder(settings.run_dir) is not None:
        return
    for port in try_ports(settings, ("http_port", "tls_port", "kafka_port")):
        if port.trouble:
            raise HostError(f"Envoy's port {port} cannot be used ({port.trouble}): {port.advice}")


def _effective_rights() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("CapEff:")[2].split(None, 1)[0], 16)


def _kernel(release: str) -> tuple[int, int]:
    numbers = release.split("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        return OLDEST_KERNEL  # an unusual name says nothing about its age


def _filesystem_known(name: str) -> bool:
    return any(line.split()[-1] == name for line in Path("/proc/filesystems").read_text().splitlines())


def _mounted(kind: str) -> bool:
    return any(line.split()[2] == kind for line in Path("/proc/self/mounts").read_text().splitlines())
