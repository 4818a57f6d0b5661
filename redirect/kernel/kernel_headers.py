"""The header folder that bcc compiles against, made from the user-space headers (linux-libc-dev), not the kernel's.

bcc looks below BCC_KERNEL_SOURCE for a kernel tree. Ours holds links to /usr/include and the few internal headers that
bcc's own preamble asks for. The programs use uapi definitions only.
"""

from __future__ import annotations

import platform
from pathlib import Path

from ..errors import ProgramRejectedError

_USER_HEADERS = Path("/usr/include")
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
_TYPES = """#pragma once
#include <uapi/linux/types.h>
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;
typedef __s8 s8; typedef __s16 s16; typedef __s32 s32; typedef __s64 s64;
typedef __u8 uint8_t; typedef __u16 uint16_t; typedef __u32 uint32_t; typedef __u64 uint64_t;
typedef unsigned long uintptr_t; typedef unsigned long size_t; typedef _Bool bool;
"""
_OWN = {
    "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "include/linux/types.h": _TYPES,
    "include/linux/log2.h": "",
    "include/asm/page.h": "",
    "include/uapi/linux/bpf.h": "#include <bcc/bpf.h>\n",
}


def write_kernel_headers(target: Path) -> None:
    """Fill the empty folder `target`. Raises ProgramRejectedError when linux-libc-dev is not installed."""
    machine = platform.machine()
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        raise ProgramRejectedError(f"no eBPF build for {machine}; use one of {', '.join(sorted(_ARCHITECTURES))}")
    linux = _USER_HEADERS / "linux"
    asm = next(
        (path for path in (_USER_HEADERS / f"{machine}-linux-gnu/asm", _USER_HEADERS / "asm") if path.is_dir()), None
    )
    if not (linux / "if_ether.h").is_file() or asm is None:
        raise ProgramRejectedError(f"{linux} is missing or empty; install the package linux-libc-dev")
    uapi = target / "include/uapi/linux"
    uapi.mkdir(parents=True)
    for header in linux.iterdir():
        if header.name != "bpf.h":
            (uapi / header.name).symlink_to(header)
    (target / "include/uapi/asm-generic").symlink_to(_USER_HEADERS / "asm-generic")
    arch = target / f"arch/{architecture}/include/uapi"
    arch.mkdir(parents=True)
    (arch / "asm").symlink_to(asm)
    for name, text in _OWN.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
