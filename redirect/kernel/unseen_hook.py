"""The programs of bpf/unseen.c, which rules of nftables ask (see `unseen_table`)."""

from __future__ import annotations

from .newcomer_hook import SOCKET_FILTER
from .program_hook import ProgramHook


class UnseenHook(ProgramHook):
    """A program; its number means nothing to the kernel, where no hook of eBPF's own runs it."""

    ARRIVES = ("may_arrive", 0)
    DEPARTS = ("may_depart", 1)

    @property
    def program_type(self) -> int:
        return SOCKET_FILTER
