"""The eBPF programs that others have put at the node's interfaces: by TCX links and by classic tc filters."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from . import syscall
from .syscall import Command
from .tcx import Hook

_TCX_SIDES = {"ingress": 46, "egress": 47}  # enum bpf_attach_type
_CLSACT_SIDES = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # TC_H_MIN_INGRESS, TC_H_MIN_EGRESS
_ROOM = 64  # programs at one side of one interface: BPF_MPROG_MAX
_OURS = frozenset(hook.program for hook in Hook)


@dataclass(frozen=True, slots=True)
class Attached:
    """One program of somebody else's. `way`: tcx or tc."""

    interface: str
    side: str
    way: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} at {self.interface} ({self.way} {self.side})"


def others_programs() -> Iterator[Attached]:
    """In the current network namespace; ours are left out. Yields nothing where the kernel cannot tell."""
    for ifindex, interface in socket.if_nameindex():
        for side, attach_type in _TCX_SIDES.items():
            for name in _tcx_programs(ifindex, attach_type):
                if name not in _OURS:
                    yield Attached(interface, side, "tcx", name)
    with IPRoute() as routes:
        for ifindex, interface in socket.if_nameindex():
            for side, parent in _CLSACT_SIDES.items():
                for name in _filters(routes, ifindex, parent):
                    yield Attached(interface, side, "tc", name)


def _tcx_programs(ifindex: int, attach_type: int) -> Iterator[str]:
    """BPF_PROG_QUERY (include/uapi/linux/bpf.h, `struct { ... } query`)."""
    ids = (ctypes.c_uint32 * _ROOM)()
    head = struct.pack("=IIIIQII", ifindex, attach_type, 0, 0, ctypes.addressof(ids), _ROOM, 0)
    query = ctypes.create_string_buffer(head + bytes(32), len(head) + 32)
    try:
        syscall.bpf(Command.PROG_QUERY, query)
    except OSError:
        return
    (count,) = struct.unpack_from("=I", query, 24)
    for number in ids[:count]:
        try:
            fd = syscall.bpf(Command.PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
        except OSError:
            continue  # it went in this moment
        try:
            yield syscall.program_name(fd)
        finally:
            os.close(fd)


def _filters(routes: IPRoute, ifindex: int, parent: int) -> Iterator[str]:
    try:
        found = list(routes.get_filters(index=ifindex, parent=parent))
    except NetlinkError:
        return  # no clsact there
    for each in found:
        options = each.get_attr("TCA_OPTIONS")
        if each.get_attr("TCA_KIND") == "bpf" and options is not None:
            yield str(options.get_attr("TCA_BPF_NAME") or "a program without a name")
