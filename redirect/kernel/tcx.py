"""TCX links: one program at one side of one interface, alive as long as its pin (Linux 6.6 and newer)."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path

from ..errors import BpfUnsupportedError, EndpointUnreachableError
from . import pinned_link, syscall
from .program_hook import ProgramHook

_SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS


class Hook(ProgramHook):
    """A program of bpf/lockgate.c and the side of the interface it belongs to (`enum bpf_attach_type`)."""

    FROM_POD = ("from_pod", 46)  # BPF_TCX_INGRESS
    TO_POD = ("to_pod", 47)  # BPF_TCX_EGRESS
    FROM_UPLINK = ("from_uplink", 46)
    TO_UPLINK = ("to_uplink", 47)
    FROM_TUNNEL = ("from_tunnel", 46)
    TO_TUNNEL = ("to_tunnel", 47)
    FROM_BRIDGE = ("from_bridge", 46)
    TO_BRIDGE = ("to_bridge", 47)
    FROM_LOOPBACK = ("from_loopback", 46)

    @property
    def program_type(self) -> int:
        return _SCHED_CLS


UPLINK_HOOKS = (Hook.TO_UPLINK, Hook.FROM_UPLINK)
TUNNEL_HOOKS = (Hook.TO_TUNNEL, Hook.FROM_TUNNEL)  # of an uplink without Ethernet headers
BRIDGE_HOOKS = (Hook.TO_BRIDGE, Hook.FROM_BRIDGE)  # before those of an uplink, which a bridge may be too
LOOPBACK_HOOKS = (Hook.FROM_LOOPBACK,)
POD_HOOKS = (Hook.TO_POD, Hook.FROM_POD)  # both sides of an endpoint's interface, in the order of attaching


def create_pinned(hook: Hook, ifindex: int, program_fd: int, path: Path) -> None:
    """Attach the program and pin the link at `path`; it stays when this process ends."""
    try:
        fd = pinned_link.create(program_fd, ifindex, hook.attach_type, first=hook in BRIDGE_HOOKS)
    except OSError as error:
        raise _explain(error, ifindex) from error
    pinned_link.keep(fd, path)


def swap(path: Path, program_fd: int) -> int:
    """Put another program behind the pinned link, atomically. Returns its interface, 0 when that is gone."""
    fd = syscall.get(path)
    try:
        ifindex = syscall.link_ifindex(fd)
        if ifindex:
            try:
                pinned_link.swap(fd, program_fd)
            except OSError as error:
                if error.errno != errno.ENOLINK:  # the interface went in this moment
                    raise
                return 0
        return ifindex
    finally:
        os.close(fd)


def interface_of(path: Path) -> int:
    """The interface of the pinned link, 0 when it is gone."""
    fd = syscall.get(path)
    try:
        return syscall.link_ifindex(fd)
    finally:
        os.close(fd)


def _explain(error: OSError, ifindex: int) -> Exception:
    if error.errno == errno.ENODEV:
        return EndpointUnreachableError(
            f"interface {ifindex} does not exist in this network namespace; is its pod gone?"
        )
    if error.errno == errno.EPERM:
        return BpfUnsupportedError("attaching eBPF programs needs root (CAP_BPF and CAP_NET_ADMIN); run as root")
    if error.errno == errno.EINVAL:
        return BpfUnsupportedError(
            f"TCX links are not supported by this kernel ({platform.release()}); they need Linux 6.6 or newer"
        )
    return BpfUnsupportedError(f"cannot attach a program to interface {ifindex}: {error.strerror}")
