"""Programs at sockets: links to control groups (v2), most to their root, alive as long as their pins."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BpfUnsupportedError
from . import pinned_link, syscall
from .program_hook import ProgramHook

_PACKETS = 8  # BPF_PROG_TYPE_CGROUP_SKB
_SOCK_ADDR = 18  # BPF_PROG_TYPE_CGROUP_SOCK_ADDR
_PROC = Path("/proc")


class _AddressHook(ProgramHook):
    """What such a program may do with the address depends on where it runs."""

    @property
    def program_type(self) -> int:
        return _SOCK_ADDR

    @property
    def verified_for(self) -> int:
        return self.attach_type


class SocketHook(_AddressHook):
    """A program of bpf/services.c and what of a socket it is about (`enum bpf_attach_type`)."""

    CONNECT4 = ("service_connect4", 10)
    CONNECT6 = ("service_connect6", 11)
    SENDMSG4 = ("service_sendmsg4", 14)
    SENDMSG6 = ("service_sendmsg6", 15)
    RECVMSG4 = ("service_recvmsg4", 19)
    RECVMSG6 = ("service_recvmsg6", 20)
    GETPEERNAME4 = ("service_getpeername4", 29)
    GETPEERNAME6 = ("service_getpeername6", 30)


class PublishedHook(_AddressHook):
    """Likewise, of bpf/published.c."""

    CONNECT4 = ("published_connect4", 10)
    CONNECT6 = ("published_connect6", 11)


class ProcessHook(ProgramHook):
    """A program of bpf/processes.c, and which way it looks."""

    TO_PROCESS = ("to_process", 0)  # BPF_CGROUP_INET_INGRESS
    FROM_PROCESS = ("from_process", 1)  # BPF_CGROUP_INET_EGRESS

    @property
    def program_type(self) -> int:
        return _PACKETS

    @property
    def verified_for(self) -> int:
        return self.attach_type


def root(proc: Path = _PROC) -> Path:
    """Where the root of the cgroups (v2) is mounted.

    In a container with a view of its own (a cgroup namespace) its own group looks like the root, and programs there
    would see nobody else. The real one has no `cgroup.events`
    (https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files). Where nobody sees it, as the first
    process has this view too, the outermost group that is seen is all there is.

    Raises BpfUnsupportedError when it is nowhere.
    """
    found: list[tuple[Path, str]] = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if after.split()[:1] == ["cgroup2"]:
            found.append((Path(fields[4].encode().decode("unicode_escape")), fields[3]))
    if not found:
        raise BpfUnsupportedError(
            "no cgroup2 file system is mounted, which service addresses and published ports need; "
            "mount one with 'mount -t cgroup2 none /sys/fs/cgroup/unified'"
        )
    for path, _ in found:
        if path.is_dir() and not (path / "cgroup.events").exists():
            return path
    if _view(proc / "self") != _view(proc / "1"):
        raise BpfUnsupportedError(
            f"{found[0][0]} shows this container's control group and not the machine's, whose root service addresses "
            "and published ports need; bind the host's /sys/fs/cgroup into the container"
        )
    return next((path for path, shown in found if shown == "/"), found[0][0])


def _view(process: Path) -> tuple[int, int] | None:
    """The cgroup namespace; None where it may not be asked."""
    try:
        told = (process / "ns/cgroup").stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


def create_pinned(hook: ProgramHook, group: Path, program_fd: int, path: Path) -> None:
    """Attach the program to the cgroup and pin the link at `path`; it stays when this process ends."""
    target = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = pinned_link.create(program_fd, target, hook.attach_type)
    except OSError as error:
        raise BpfUnsupportedError(
            f"cannot attach {hook.program} to the cgroup {group} ({error.strerror}); it needs root and Linux 6.6"
        ) from error
    finally:
        os.close(target)
    pinned_link.keep(fd, path)


def is_attached(path: Path) -> bool:
    """False for a link that is not pinned there, that somebody has detached, or whose cgroup is gone."""
    if not path.exists():
        return False
    fd = syscall.get(path)
    try:
        return bool(syscall.link_cgroup(fd))
    finally:
        os.close(fd)


def swap(path: Path, program_fd: int) -> None:
    """Put another program behind the pinned link, atomically."""
    fd = syscall.get(path)
    try:
        pinned_link.swap(fd, program_fd)
    finally:
        os.close(fd)
