"""Cases as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.tests.agreement.case import Case, InvalidCase, Setting


def test_a_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    shared = {"app": "a"}  # the same object twice must not become an anchor, which people would have to resolve
    workloads = [{"name": name, "labels": shared, "ips": ["10.0.0.1"]} for name in ("a", "b")]
    setting = Setting([{"kind": "NetworkPolicy"}], workloads, [{"name": "s"}], {"a.example": ["192.0.2.1"]})
    case = Case(setting, {"from": "a", "to": "b", "port": 80}, "two\nlines")
    path = tmp_path / "case.yaml"
    path.write_text(case.text())
    assert Case.read(path) == case
    assert "&" not in path.read_text()


def test_documents_with_errors_are_no_case() -> None:
    with pytest.raises(InvalidCase, match="has no apiVersion"):
        Setting([{"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {}}]).world({})
