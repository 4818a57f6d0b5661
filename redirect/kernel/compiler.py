"""Run as a process of its own: compiles a source of bpf/ with bcc, loads its programs and pins them, and ends.

    python -m lockgate.redirect.kernel.compiler lockgate.c MAP_FOLDER FROM_POD_PIN TO_POD_PIN ...

bcc brings clang and 100 MB with it and talks to standard error directly; here that is no burden for the agent, and what
clang and the verifier say can be read whole. Exit status: 0, or one of `Exit`.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from ..errors import ProgramRejectedError
from . import cgroup, syscall
from .cgroup import PublishedHook, SocketHook
from .kernel_headers import write_kernel_headers
from .source import read_source
from .tcx import Hook

# The hooks of each source, in the order of their programs.
SOURCES: Mapping[type[Hook] | type[SocketHook] | type[PublishedHook], str] = {
    Hook: "lockgate.c",
    SocketHook: "services.c",
    PublishedHook: "published.c",
}


class Exit(IntEnum):
    """Where it failed. Details are on standard error."""

    NO_BCC = 3
    HEADERS = 4
    COMPILE = 5
    VERIFIER = 6
    RIGHTS = 7


def main(source: str, map_folder: Path, pins: Sequence[Path]) -> int:
    """Compile, load, pin. bcc makes the maps that are not pinned in `map_folder` yet and opens those that are."""
    with tempfile.TemporaryDirectory(prefix="lockgate-headers-") as folder:
        headers = Path(folder)
        try:
            write_kernel_headers(headers)
        except ProgramRejectedError as error:
            print(error, file=sys.stderr)
            return Exit.HEADERS
        os.environ["BCC_KERNEL_SOURCE"] = str(headers)  # read when bcc is imported
        try:
            from bcc import BPF
        except ImportError as error:
            print(error, file=sys.stderr)
            return Exit.NO_BCC
        try:
            # Debugging information is nearly a fifth of clang's work, and nobody looks at it.
            module = BPF(text=read_source(source), cflags=[f'-DPIN_DIR="{map_folder}"', "-g0"])
        except Exception as error:  # bcc raises nothing narrower
            print(error, file=sys.stderr)
            return Exit.RIGHTS if os.geteuid() != 0 else Exit.COMPILE
        kind = next(kind for kind, name in SOURCES.items() if name == source)
        hooks: Sequence[Hook | SocketHook | PublishedHook] = tuple(kind)
        for hook, pin in zip(hooks, pins, strict=True):
            try:
                if isinstance(hook, SocketHook | PublishedHook):
                    function = module.load_func(hook.program, cgroup.PROGRAM_TYPE, attach_type=hook.attach_type)
                else:
                    function = module.load_func(hook.program, BPF.SCHED_CLS)
            except Exception as error:
                print(error, file=sys.stderr)
                return Exit.RIGHTS if "super-user" in str(error) else Exit.VERIFIER
            syscall.pin(function.fd, pin)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2]), [Path(each) for each in sys.argv[3:]]))
    except OSError as failure:
        print(failure, file=sys.stderr)
        sys.exit(Exit.RIGHTS if failure.errno == errno.EPERM else 1)
