"""The programs of bpf/newcomers.c, which rules of nftables ask (see `bridge_table`)."""

from __future__ import annotations

from .program_hook import ProgramHook

PROGRAM_TYPE = 1  # BPF_PROG_TYPE_SOCKET_FILTER


class NewcomerHook(ProgramHook):
    """A program; its number means nothing to the kernel, where no hook of eBPF's own runs it."""

    ENTERS = ("may_enter", 0)
    LEAVES = ("may_leave", 1)
