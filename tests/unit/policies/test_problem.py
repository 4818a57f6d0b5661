"""How problems read."""

from __future__ import annotations

from lockgate.policies.language.problem import Problem, Severity


def test_an_error_reads_as_one_line() -> None:
    problem = Problem("p.yaml", 7, "spec.ingress[0]", "a list expected", "write [...]")
    assert str(problem) == "p.yaml:7: spec.ingress[0]: a list expected; write [...]"
    assert problem.is_error


def test_parts_that_are_missing_leave_no_mark() -> None:
    assert str(Problem("p.yaml", 0, "", "too large")) == "p.yaml: too large"
    warning = Problem("p.yaml", 3, "", "odd", severity=Severity.WARNING)
    assert str(warning) == "p.yaml:3: warning: odd"
    assert not warning.is_error


def test_as_data() -> None:
    assert Problem("p.yaml", 7, "spec", "m", "h", Severity.WARNING).to_json() == {
        "source": "p.yaml",
        "line": 7,
        "path": "spec",
        "severity": "warning",
        "message": "m",
        "hint": "h",
    }
