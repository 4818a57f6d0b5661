"""The repository root is the package: every folder is listed, and the wheel works where there is no checkout."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module

ROOT = Path(__file__).parents[2]
NOT_PACKAGES = {"bench", "build", "compose", "dist", "docs", "scripts", "tests"}


def test_every_python_folder_is_packaged() -> None:
    configured = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(("lockgate", *path.parent.relative_to(ROOT).parts))
        for path in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        and path.relative_to(ROOT).parts[0] not in NOT_PACKAGES
    }
    assert configured == found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an empty virtual environment with only the built wheel (and what it depends on)."""
    work = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, work / "source", ignore=ignored)
    uv = Path(sys.executable).with_name("uv")
    run = [str(uv), "build", "-q", "--wheel", "--out-dir", str(work / "dist"), str(work / "source")]
    subprocess.run(run, check=True, capture_output=True, text=True)
    (wheel,) = (work / "dist").glob("*.whl")
    subprocess.run([str(uv), "venv", "-q", "--python", "/usr/bin/python3", str(work / "venv")], check=True)
    python = work / "venv" / "bin" / "python"
    subprocess.run([str(uv), "pip", "install", "-q", "--python", str(python), str(wheel)], check=True)
    return python.parent


def test_the_wheel_carries_the_module_and_is_for_this_platform(installed: Path, tmp_path: Path) -> None:
    asked = subprocess.run(
        [
            installed / "python",
            "-c",
            "from lockgate.envoy.running.binary import find_binary\n"
            "from lockgate.envoy.running.module_file import find_module\n"
            "print(find_module(find_binary()).sources)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert asked.strip() == find_module(find_binary()).sources
    (wheel,) = (installed.parents[1] / "dist").glob("*.whl")
    assert wheel.name.startswith("lockgate-") and wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")


def test_the_wheel_validates_a_policy_from_another_folder(installed: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    shutil.copy(ROOT / "policies/examples/api-access-control.yaml", policy)
    good = subprocess.run(
        [installed / "lockgate", "policy", "validate", policy],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (good.returncode, good.stderr) == (0, "")

    policy.write_text(policy.read_text().replace("endpointSelector", "endpointSelektor"))
    bad = subprocess.run(
        [installed / "lockgate", "policy", "validate", policy],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 1
    assert "endpointSelektor" in bad.stderr


def test_the_wheel_carries_the_data_the_node_needs(installed: Path, tmp_path: Path) -> None:
    listing = subprocess.run(
        [
            installed / "python",
            "-c",
            "from importlib.resources import files\n"
            "for package in ('lockgate.bpf', 'lockgate.policies'):\n"
            "    for item in (files(package), files(package) / 'examples'):\n"
            "        print(*(entry.name for entry in item.iterdir()) if item.is_dir() else '')",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = set(listing.split())
    assert {path.name for path in (ROOT / "bpf").glob("*.[ch]")} <= names
    assert {path.name for path in (ROOT / "policies/examples").glob("*.yaml")} <= names
