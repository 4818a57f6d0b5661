"""Run as a process of its own: compiles bpf/lockgate.c with bcc, loads the programs and pins them, and ends.

    python -m lockgate.redirect.compiler MAP_FOLDER FROM_POD_PIN TO_POD_PIN FROM_UPLINK_PIN

bcc brings clang and 100 MB with it and talks to standard error directly; here that is no burden for the agent, and what
clang and the verifier say can be read whole. Exit status: 0, or one of `Exit`.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

from . import syscall
from .errors import ProgramRejectedError
from .kernel_headers import write_kernel_headers
from .source import read_source
from .tcx import Hook


class Exit(IntEnum):
    """Where it failed. Details are on standard error."""

    NO_BCC = 3
    HEADERS = 4
    COMPILE = 5
    VERIFIER = 6
    RIGHTS = 7


def main(map_folder: Path, pins: Mapping[Hook, Path]) -> int:
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
            module = BPF(text=read_source(), cflags=[f'-DPIN_DIR="{map_folder}"'])
        except Exception as error:  # bcc raises nothing narrower
            print(error, file=sys.stderr)
            return Exit.RIGHTS if os.geteuid() != 0 else Exit.COMPILE
        for hook in Hook:
            try:
                function = module.load_func(hook.program, BPF.SCHED_CLS)
            except Exception as error:
                print(error, file=sys.stderr)
                return Exit.RIGHTS if "super-user" in str(error) else Exit.VERIFIER
            syscall.pin(function.fd, pins[hook])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), dict(zip(Hook, map(Path, sys.argv[2:]), strict=True))))
    except OSError as failure:
        print(failure, file=sys.stderr)
        sys.exit(Exit.RIGHTS if failure.errno == errno.EPERM else 1)
