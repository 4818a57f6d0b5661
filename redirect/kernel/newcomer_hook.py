"""The programs of bpf/newcomers.c, which rules of nftables ask (see `bridge_table`)."""

from __future__ import annotations

from .program_hook import ProgramHook

SOCKET_FILTER = 1  # BPF_PROG_TYPESOCKET_FILTER


class NewcomerHook(ProgramHook):
    """A program; its number means nothing to the kernel, where no hook of eBPF's own runs it."""

    ENTERS = ("may_enter", 0)
    LEAVES = ("may_leave", 1)

    @property
    def program_type(self) -> int:
        return SOCKET_FILTER
