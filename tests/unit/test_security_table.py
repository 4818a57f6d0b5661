"""docs/security.md names a test for everything that it claims."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)*)`")


def exists(path: str, names: str) -> bool:
    if not (ROOT / path).is_file():
        return False
    here: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef = ast.parse((ROOT / path).read_text())
    for name in filter(None, names.split("::")):
        inner = [
            each
            for each in here.body
            if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and each.name == name
        ]
        if not inner:
            return False
        here = inner[0]
    return not names or (isinstance(here, ast.FunctionDef | ast.AsyncFunctionDef) and here.name.startswith("test_"))


def rows() -> list[str]:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    return [line for line in lines if line.startswith("|") and not re.match(r"\| (tried|what is open) \||\|---", line)]


def test_every_row_names_tests_that_exist() -> None:
    assert len(rows()) > 30
    for row in rows():
        tests = NAMED.findall(row.rpartition(" | ")[2])
        assert tests, row
        for path, names in tests:
            assert exists(path, names), f"{path}{names} in: {row}"


def test_every_test_of_these_modules_has_a_row() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    for path in ("test_no_way_around.py", "test_http_tricks.py", "test_revocation.py"):
        for found in re.findall(r"^ *def (test_\w+)", (ROOT / "tests" / "e2e" / path).read_text(), re.MULTILINE):
            assert f"::{found}`" in text, found
