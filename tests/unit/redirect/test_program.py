from __future__ import annotations

import platform

import pytest
from lockgate.redirect.errors import BpfUnsupportedError, ProgramRejectedError
from lockgate.redirect.kernel.compiler import Exit
from lockgate.redirect.kernel.program import explain
from lockgate.redirect.kernel.source import read_source

VERIFIER = """bpf: Failed to load program: Permission denied
0: (b7) r0 = 0
859: (61) r4 = *(u32 *)(r5 +8)
R5 max value is outside of the allowed memory range
processed 4673 insns (limit 1000000) max_states_per_insn 8 total_states 379 peak_states 306 mark_read 0

Failed to load BPF program b'from_pod': Permission denied
"""
CLANG = """bpf/steer.h:12:5: error: use of undeclared identifier 'x'
    x = 1;
    ^
1 error generated.
Failed to compile BPF module <text>
"""


def test_the_verifier_in_one_line_and_whole() -> None:
    error = explain(Exit.VERIFIER, VERIFIER)
    assert isinstance(error, ProgramRejectedError)
    assert str(error).endswith("programs: R5 max value is outside of the allowed memory range")
    assert error.log == VERIFIER


def test_clang_names_file_and_line() -> None:
    error = explain(Exit.COMPILE, CLANG)
    assert isinstance(error, ProgramRejectedError)
    assert "bpf/steer.h:12:5: error: use of undeclared identifier 'x'" in str(error)


def test_an_old_kernel_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-13-amd64")
    error = explain(Exit.VERIFIER, VERIFIER)
    assert isinstance(error, BpfUnsupportedError)
    assert "Linux 6.6 or newer (TCX links); this is 6.1.0-13-amd64" in str(error)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Exit.RIGHTS, "run as root"),
        (Exit.NO_BCC, "python3-bpfcc"),
        (Exit.HEADERS, "linux-libc-dev"),
        (-9, "status -9"),
    ],
)
def test_every_failure_says_what_to_do(status: int, words: str) -> None:
    assert words in str(explain(status, "/usr/include/linux is missing; install the package linux-libc-dev\n"))


def test_headers_stand_in_the_source_once_and_keep_their_lines() -> None:
    source = read_source()
    assert '#include "' not in source
    assert source.count("struct connection_key {") == 1
    lines = source.splitlines()
    marker = lines.index('#line 1 "bpf/packet.h"')
    assert "What a packet says about itself" in lines[marker + 1]
