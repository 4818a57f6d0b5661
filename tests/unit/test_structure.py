"""The house keeps its shape: import direction, file sizes, error trees."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "envoy", "policies", "redirect", "store", "xds")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_imports_go_one_way() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_draws_its_error_tree(package: str) -> None:
    text = (ROOT / package / "errors.py").read_text()
    docstring = text.split('"""')[1]
    for line in text.splitlines():
        if line.startswith("class "):
            assert line.split()[1].split("(")[0] in docstring


def test_each_folder_has_a_row() -> None:
    told = set(re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE))
    folders = {str(path.parent.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert folders <= told
    assert all((ROOT / folder).is_dir() for folder in told)
