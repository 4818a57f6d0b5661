"""Programs from the file: bit for bit those that bcc loads, and without it; and what the kernel does not take."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from lockgate.redirect.errors import ProgramRejectedError
from lockgate.redirect.kernel import bpffs, program, syscall
from lockgate.redirect.kernel.cgroup import PublishedHook
from lockgate.redirect.kernel.compiled import Compiled, ProgramSpec
from lockgate.redirect.kernel.compiler import SOURCES
from lockgate.redirect.kernel.kept_programs import KeptPrograms
from lockgate.redirect.kernel.precompile import precompile
from lockgate.redirect.kernel.program import Loading
from lockgate.redirect.kernel.program_hook import ProgramHook
from lockgate.redirect.kernel.syscall import Command

PUBLISHED, SERVICES = "published.c", "services.c"
_MAP_GET_FD_BY_ID = 14


class Pins:
    """A folder of pins, and one of kept programs, which several may share."""

    def __init__(self, name: str, cache_dir: Path) -> None:
        self.folder = Path(f"/sys/fs/bpf/lg-loading-{os.getpid()}-{name}")
        self.cache_dir = cache_dir
        bpffs.ensure_folder(self.folder / "maps")

    def load(self, source: str) -> dict[ProgramHook, int]:
        """As an agent does: what is pinned, else what is kept, else with the compiler."""
        programs = self.folder / Path(source).stem
        bpffs.ensure_folder(programs)
        return dict(Loading(self.folder / "maps", programs, SOURCES[source], self.cache_dir, source).finish())

    @property
    def maps(self) -> dict[str, bytes]:
        """What each was made with."""
        found = {}
        for path in (self.folder / "maps").iterdir():
            fd = syscall.get(path)
            found[path.name] = made_with(fd)
            os.close(fd)
        return found


def _info(fd: int, told: bytes = b"") -> ctypes.Array[ctypes.c_char]:
    """struct bpf_map_info or bpf_prog_info; `told` is its beginning, where the kernel wants to be told something."""
    info = ctypes.create_string_buffer(told, 256)
    asked = ctypes.create_string_buffer(struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)), 16)
    syscall.bpf(Command.OBJ_GET_INFO_BY_FD, asked)
    return info


def made_with(fd: int) -> bytes:
    raw = _info(fd).raw
    return raw[:4] + raw[8:]


def in_kernel(fd: int) -> tuple[object, ...]:
    """All that the kernel tells of a program's making, its instructions with maps by what they were made with."""
    head = _info(fd).raw
    (size,) = struct.unpack_from("=I", head, 20)
    room = ctypes.create_string_buffer(size)
    asked = struct.pack("=II8sIIQQ", 0, 0, b"", 0, size, 0, ctypes.addressof(room))
    _info(fd, asked)
    code, at = bytearray(room.raw), 0
    maps = []
    while at < size:
        operation, registers, _, number = struct.unpack_from("<BBhi", code, at)
        if operation == 0x18:
            if registers >> 4 == 1:
                found = syscall.bpf(_MAP_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))  # type: ignore[arg-type]
                maps.append(made_with(found))
                os.close(found)
                struct.pack_into("<i", code, at + 4, 0)
            at += 8
        at += 8
    kind, _, tag = struct.unpack_from("=II8s", head)
    assert size > 100
    return kind, tag, bytes(code), maps, syscall.program_name(fd), head[84:88]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    """By bcc, as nothing is kept yet; then it is."""
    made = Pins("compiled", tmp_path_factory.mktemp("cache"))
    try:
        for source in SOURCES:
            release(made.load(source))
        yield made
    finally:
        bpffs.remove_folder(made.folder)


@pytest.fixture
def pins(compiled: Pins, tmp_path: Path) -> Iterator[Pins]:
    """Another folder, and a copy of what is kept."""
    shutil.copytree(compiled.cache_dir, tmp_path / "cache")
    made = Pins("other", tmp_path / "cache")
    try:
        yield made
    finally:
        bpffs.remove_folder(made.folder)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: object) -> None:
        raise AssertionError("the compiler was asked")

    monkeypatch.setattr(program, "_compiler", compile_nothing)


def release(programs: Mapping[ProgramHook, int]) -> None:
    for fd in programs.values():
        os.close(fd)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("source", SOURCES)
def test_the_kernel_has_the_same_from_the_file_as_from_bcc(compiled: Pins, pins: Pins, source: str) -> None:
    by_bcc, from_file = compiled.load(source), pins.load(source)
    for hook in SOURCES[source]:
        assert in_kernel(from_file[hook]) == in_kernel(by_bcc[hook])
    made = pins.maps
    assert made
    assert made == {name: compiled.maps[name] for name in made}
    assert {*made} == {each.name for each in kept(pins, source).maps if each.pinned}
    release(by_bcc)
    release(from_file)


@pytest.mark.usefixtures("no_compiler")
def test_maps_that_are_there_are_used_as_they_are(pins: Pins) -> None:
    small = syscall.create_map(1, 8, 4, 7, 1, "service_clients")  # a hash with room for few
    syscall.pin(small, pins.folder / "maps" / "service_clients")
    release(pins.load(SERVICES))
    assert pins.maps["service_clients"] == made_with(small)
    os.close(small)


def kept(pins: Pins, source: str) -> Compiled:
    found = KeptPrograms(pins.cache_dir, source).read()
    assert found is not None
    return found


def spoil(pins: Pins, change: Callable[[Compiled], Compiled]) -> Compiled:
    """The kept programs of published.c, changed, and whole otherwise."""
    made = change(kept(pins, PUBLISHED))
    KeptPrograms(pins.cache_dir, PUBLISHED).write(made)
    return made


def _unreadable(made: Compiled) -> Compiled:
    """Its last program returns a register that nobody has written."""
    last = PublishedHook.CONNECT6.program
    return replace(made, programs={**made.programs, last: ProgramSpec(struct.pack("<BBhi", 0x95, 0, 0, 0))})


def _lacking(made: Compiled) -> Compiled:
    return replace(made, programs={PublishedHook.CONNECT4.program: made.programs[PublishedHook.CONNECT4.program]})


def _odd_map(made: Compiled) -> Compiled:
    return replace(made, maps=tuple(replace(each, kind=9999) for each in made.maps))


def _place_of_nobody(made: Compiled) -> Compiled:
    return replace(made, maps=())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_unreadable, "the kernel's verifier refused the eBPF programs: R0 !read_ok"),
        (_lacking, "published_connect6"),
        (_odd_map, "Invalid argument"),
        (_place_of_nobody, "KeyError"),
    ],
)
def test_what_the_kernel_does_not_take_is_compiled_anew(
    compiled: Pins,
    pins: Pins,
    change: Callable[[Compiled], Compiled],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = kept(pins, PUBLISHED)
    spoilt = spoil(pins, change)
    assert kept(pins, PUBLISHED) == spoilt != before
    by_bcc, loaded = compiled.load(PUBLISHED), pins.load(PUBLISHED)
    (told,) = caplog.messages
    assert words in told
    for hook in PublishedHook:
        assert in_kernel(loaded[hook]) == in_kernel(by_bcc[hook])
    assert kept(pins, PUBLISHED) == before, "the next start has better ones"
    release(by_bcc)
    release(loaded)


@pytest.mark.usefixtures("no_compiler")
def test_nothing_is_half_loaded(pins: Pins) -> None:
    spoil(pins, _unreadable)
    with pytest.raises(AssertionError, match="the compiler was asked"):
        pins.load(PUBLISHED)
    assert not [*(pins.folder / "published").iterdir()]
    assert not pins.maps


def test_a_compiler_that_fails_too_is_told_as_ever(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(pins, _unreadable)
    started = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"], stderr=subprocess.PIPE, text=True)
    monkeypatch.setattr(program, "_compiler", lambda *_: started)
    with pytest.raises(ProgramRejectedError, match="clang refused"):
        pins.load(PUBLISHED)


def test_a_folder_that_takes_no_files_is_told_and_nothing_more(pins: Pins, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(pins.cache_dir)
    pins.cache_dir.write_text("a file where the folder should be")
    release(pins.load(PUBLISHED))
    (told,) = [each for each in caplog.messages if "kept" in each]
    assert f"{pins.cache_dir}" in told
    assert "--cache-dir" in told


@pytest.mark.usefixtures("no_compiler")
def test_nothing_is_compiled_ahead_that_is_kept(pins: Pins) -> None:
    before = {path: path.stat().st_ino for path in (pins.cache_dir / "programs").iterdir()}
    precompile(pins.cache_dir)
    assert {path: path.stat().st_ino for path in (pins.cache_dir / "programs").iterdir()} == before


def test_what_is_lacking_is_compiled_ahead_and_no_pin_stays(pins: Pins) -> None:
    before = kept(pins, PUBLISHED)
    KeptPrograms(pins.cache_dir, PUBLISHED).path.unlink()
    left = Path("/sys/fs/bpf/lockgate-precompile-0")  # no process has this number
    bpffs.ensure_folder(left / "maps")
    precompile(pins.cache_dir)
    assert kept(pins, PUBLISHED) == before
    assert not left.exists()
    assert not Path(f"/sys/fs/bpf/lockgate-precompile-{os.getpid()}").exists()
