"""The dynamic module on disk is found, and one that does not fit the node's Envoy is refused in one sentence."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from lockgate.envoy.errors import ModuleError
from lockgate.envoy.running.binary import VERSION, find_binary
from lockgate.envoy.running.module_file import ABI, find_module

ROOT = Path(__file__).parents[3]


def test_the_module_that_was_built_fits_the_pinned_envoy() -> None:
    module = find_module(find_binary())
    assert module.path == ROOT / "envoy" / "module" / "liblockgate.so"
    assert len(module.sources) == 32


def test_a_module_for_another_envoy_is_refused() -> None:
    other = replace(find_binary(), path=Path("/opt/envoy"), version="1.41.0")
    with pytest.raises(ModuleError) as caught:
        find_module(other)
    assert str(caught.value) == (
        f"the dynamic module {ROOT}/envoy/module/liblockgate.so is for Envoy {VERSION} (ABI {ABI}), but /opt/envoy is "
        f"Envoy 1.41.0 (ABI {ABI}); run scripts/setup, or reinstall the package"
    )


def test_a_module_of_another_abi_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "liblockgate.so"
    content = find_module(find_binary()).path.read_bytes()
    module.write_bytes(content.replace(b" abi=v0.2.0 ", b" abi=v0.9.0 "))
    with pytest.raises(ModuleError, match=r"is for Envoy 1\.40\.0 \(ABI v0\.9\.0\), but"):
        find_module(find_binary(), module)


def test_no_module_and_a_stranger_are_refused(tmp_path: Path) -> None:
    module = tmp_path / "liblockgate.so"
    with pytest.raises(ModuleError, match=r"no dynamic module for Envoy at .* \(No such file or directory\); run"):
        find_module(find_binary(), module)
    shutil.copy("/bin/true", module)
    with pytest.raises(ModuleError, match="is not Lockgate's dynamic module; run"):
        find_module(find_binary(), module)


def test_the_module_passes_its_own_tests() -> None:
    run = subprocess.run([ROOT / "scripts" / "build-module", "--test"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "test result: ok." in run.stdout
    assert "test result: ok. 0 passed" not in run.stdout
