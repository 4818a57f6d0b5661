"""Makes one thread of a process hang, the others going on: it is sent to instructions that it never comes back from.

They are found in the process' own code: a system call that waits for ever, a jump to itself. x86-64.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

_ATTACH, _GETREGS, _SETREGS, _DETACH = 16, 12, 13, 17  # of <sys/ptrace.h>
_NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs gs ds es fs gs2"
_RAX, _ORIG_RAX, _RIP = (_NAMES.split().index(name) for name in ("rax", "orig_rax", "rip"))
_PAUSE = 34  # pause(2)
_WALL = 0x40000000  # __WALL: of threads too


class Way(Enum):
    """How it hangs, as the instruction that does it."""

    STUCK = b"\x0f\x05"  # syscall
    SPINNING = b"\xeb\xfe"  # jmp .


def wedge(pid: int, thread: int, way: Way) -> None:
    """From now on `thread` of `pid` does nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long

    def ptrace(request: int, data: object = None) -> None:
        if libc.ptrace(request, thread, None, data) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request}")

    place = next(_places(pid, way.value))
    ptrace(_ATTACH)
    os.waitpid(thread, _WALL)
    registers = (ctypes.c_uint64 * 27)()
    ptrace(_GETREGS, ctypes.byref(registers))
    registers[_RIP], registers[_RAX] = place, _PAUSE
    registers[_ORIG_RAX] = 2**64 - 1  # no system call is begun again
    ptrace(_SETREGS, ctypes.byref(registers))
    ptrace(_DETACH)


def _places(pid: int, code: bytes) -> Iterator[int]:
    """Where these bytes are in what the process may execute."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if "x" in rights and "/" in line:
                start, end = (int(part, 16) for part in span.split("-"))
                memory.seek(start)
                found = memory.read(min(end - start, 1 << 24)).find(code)
                if found >= 0:
                    yield start + found
