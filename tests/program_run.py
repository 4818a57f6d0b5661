"""Runs an eBPF program of the data path once, on a packet made here."""

from __future__ import annotations

import ctypes
import struct

from lockgate.redirect.kernel import syscall

_TEST_RUN = 10  # BPF_PROG_TEST_RUN


def run_program(program: int, packet: bytes, context: bytes) -> tuple[int, int]:
    """One run; the program's return value and the packet's mark after it."""
    data = ctypes.create_string_buffer(packet, len(packet))
    ctx = ctypes.create_string_buffer(context, len(context))
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQ",
            *(program, 0, len(packet), 0, ctypes.addressof(data), 0),
            *(1, 0, len(context), len(context), ctypes.addressof(ctx), ctypes.addressof(ctx)),
        ),
        80,
    )
    syscall.bpf(_TEST_RUN, attributes)  # type: ignore[arg-type]
    return struct.unpack_from("=I", attributes, 4)[0], struct.unpack_from("=I", ctx, 8)[0]
