"""What Envoy's configuration reads off an end, and that the module writes ends as the compiler does."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path

import pytest
from lockgate.envoy.config.end import DESTINATION, ELSEWHERE, SHARDS, SOURCE, identity_of, in_shard
from lockgate.xds.compile import end as compiler

PROBE = Path(__file__).parent / "end_probe.rs"
IDENTITIES = (0, 1, 2, 9, 10, 63, 64, 65, 99, 100, 400, 65_535, 65_536, 70_103, 16_777_216, 2**31, 2**32 - 1)


@pytest.mark.parametrize(
    ("end", "identity"),
    [("23:70103:in", "70103"), ("2:2:out", "2"), ("23:70103:", "70103"), ("nobody", "nobody"), ("", ""), ("7", "7")],
)
def test_who_it_is(end: str, identity: str) -> None:
    assert identity_of(end) == identity


def test_envoy_and_the_compiler_write_alike() -> None:
    assert (SOURCE, DESTINATION, ELSEWHERE) == (compiler.SOURCE, compiler.DESTINATION, compiler.ELSEWHERE)
    for identity, here in product(IDENTITIES, (True, False)):
        end = compiler.end_text(identity, here=here)
        assert identity_of(end) == identity_of(compiler.wherever(identity)) == str(identity)
        assert [number for number in range(SHARDS) if end.startswith(in_shard(number))] == [identity % SHARDS]


def test_the_module_and_the_compiler_write_alike(tmp_path: Path) -> None:
    program = tmp_path / "end-probe"
    built = subprocess.run(
        ["rustc", "--edition", "2021", "-C", "overflow-checks=on", "-o", program, PROBE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    asked = list(product(IDENTITIES, (True, False)))
    lines = "".join(f"{identity} {str(here).lower()} {SHARDS}\n" for identity, here in asked)
    told = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0] == f"{SOURCE} {DESTINATION}"
    assert told[1:] == [
        f"{compiler.end_text(identity, here=here)} Some(({identity}, {str(here).lower()}))" for identity, here in asked
    ]
