"""Run as a process of its own: compiles a source of bpf/ with bcc, loads its programs, pins and keeps them.

    python -m lockgate.redirect.kernel.compiler lockgate.c MAP_FOLDER CACHE_DIR FROM_POD_PIN TO_POD_PIN ...

bcc brings clang and 100 MB with it and talks to standard error directly; here that is no burden for the agent, and what
clang and the verifier say can be read whole. Exit status: 0, or one of `Exit`. Programs that could not be kept are no
failure: a line on standard error tells of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from ..errors import ProgramRejectedError
from . import syscall
from .cgroup import ProcessHook, PublishedHook, SocketHook
from .compiled import Compiled, MapSpec, ProgramSpec
from .kept_programs import KeptPrograms, makers
from .kernel_headers import write_kernel_headers
from .newcomer_hook import NewcomerHook
from .program_hook import ProgramHook
from .source import read_source
from .tcx import Hook
from .unseen_hook import UnseenHook

HOST_ROUTING = "host_routing.c"  # in place of lockgate.c, where the node is told so
# The hooks of each source, in the order of their programs.
SOURCES: Mapping[str, type[ProgramHook]] = {
    "lockgate.c": Hook,
    HOST_ROUTING: Hook,
    "services.c": SocketHook,
    "published.c": PublishedHook,
    "processes.c": ProcessHook,
    "newcomers.c": NewcomerHook,
    "unseen.c": UnseenHook,
}
_ANY = -1  # bcc's word for a program that is verified without it

NOT_KEPT = "the eBPF programs are not kept, each start compiles them: "  # a line that begins like this


class Exit(IntEnum):
    """Where it failed. Details are on standard error."""

    NO_BCC = 3
    HEADERS = 4
    COMPILE = 5
    VERIFIER = 6
    RIGHTS = 7


def main(source: str, map_folder: Path, cache_dir: Path, pins: Sequence[Path]) -> int:
    """Compile, load, pin, keep. bcc makes the maps that are not pinned in `map_folder` yet and opens those that are."""
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
        hooks = tuple(SOURCES[source])
        for hook, pin in zip(hooks, pins, strict=True):
            try:
                attach_type = hook.verified_for or _ANY
                function = module.load_func(hook.program, hook.program_type, attach_type=attach_type)
            except Exception as error:
                print(error, file=sys.stderr)
                return Exit.RIGHTS if "super-user" in str(error) else Exit.VERIFIER
            syscall.pin(function.fd, pin)
        try:
            KeptPrograms(cache_dir, source).write(_describe(module, hooks, map_folder))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"{NOT_KEPT}{cache_dir}: {reason}; --cache-dir names a folder that root can write", file=sys.stderr)
    return 0


def _describe(module: Any, hooks: Sequence[ProgramHook], map_folder: Path) -> Compiled:
    """What bcc has made, which is loaded already. Raises ValueError when it is of a kind that is not known here."""
    from bcc import lib

    of_module, of_table = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t]
    for name, parameters, result in (
        ("num_tables", of_module, ctypes.c_size_t),
        ("table_name", of_table, ctypes.c_char_p),
        ("table_fd_id", of_table, ctypes.c_int),
        ("table_key_size_id", of_table, ctypes.c_size_t),
        ("table_leaf_size_id", of_table, ctypes.c_size_t),
    ):
        function = getattr(lib, f"bpf_{name}")
        function.argtypes, function.restype = parameters, result
    maps, places = [], {}
    for place in range(lib.bpf_num_tables(module.module)):
        table = (module.module, place)
        name, fd = lib.bpf_table_name(*table).decode(), lib.bpf_table_fd_id(*table)
        places[fd] = place
        maps.append(
            MapSpec(
                name,
                lib.bpf_table_type_id(*table),
                lib.bpf_table_key_size_id(*table),
                lib.bpf_table_leaf_size_id(*table),
                lib.bpf_table_max_entries_id(*table),
                lib.bpf_table_flags_id(*table),
                _is_pinned(fd, map_folder / name),
            )
        )
    programs = {hook.program: ProgramSpec.of(module.dump_func(hook.program), places) for hook in hooks}
    return Compiled(tuple(maps), programs, lib.bpf_module_license(module.module).decode(), makers())


def _is_pinned(fd: int, path: Path) -> bool:
    if not path.exists():
        return False
    pinned = syscall.get(path)
    try:
        return syscall.map_info(pinned).id == syscall.map_info(fd).id
    finally:
        os.close(pinned)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [Path(each) for each in sys.argv[4:]]))
    except OSError as failure:
        print(failure, file=sys.stderr)
        sys.exit(Exit.RIGHTS if failure.errno == errno.EPERM else 1)
