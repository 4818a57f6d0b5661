"""Specs that are refused or warned of, and what of them every test of them asks."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent
from typing import TypeAlias

import pytest
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.problem import Problem, Severity

HEAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: p
spec:
"""
CLUSTERWIDE = HEAD.replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
FIRST = HEAD.count("\n") + 1  # the line on which a spec begins
SELECTOR = "endpointSelector: {}\n"


def spec(text: str, head: str = HEAD) -> bytes:
    return (head + indent(text, "  ")).encode()


def entry(text: str, section: str = "ingress") -> str:
    """A spec with one entry, which begins on the spec's line 2."""
    lines = text.strip().splitlines()
    return f"{SELECTOR}{section}:\n- " + "\n  ".join(lines) + "\n"


HTTP = 'toPorts:\n- ports: [{port: "80", protocol: TCP}]\n  rules:\n    http:\n'
P = "spec.ingress[0].toPorts[0]"
H = f"{P}.rules.http[0]"

# spec, line within it from 0, path, message, start of the hint
Row: TypeAlias = tuple[str, int, str, str, str]


def each_of(rows: Sequence[Row]) -> pytest.MarkDecorator:
    """Runs a test for each of them, as `row`."""
    return pytest.mark.parametrize("row", rows, ids=[row[3][:60] for row in rows])


def refusal_of(row: Row) -> tuple[int, str, str, str]:
    """The one that the spec gets, as its row should say it. Nothing of the policy is used then."""
    parsed = parse_policies(spec(row[0]), "p.yaml", refuse={})
    assert parsed.policies == ()
    assert [str(key) for key in parsed.broken] == ["default/p"]
    assert not parsed.unreadable
    (error,) = (problem for problem in parsed.problems if problem.is_error)
    return _told(error, row)


def warning_of(row: Row) -> tuple[int, str, str, str]:
    """Likewise. The policy is used."""
    parsed = parse_policies(spec(row[0]), "p.yaml", refuse={})
    assert parsed.ok
    assert len(parsed.policies) == 1
    (warning,) = parsed.problems
    assert warning.severity is Severity.WARNING
    return _told(warning, row)


def _told(problem: Problem, row: Row) -> tuple[int, str, str, str]:
    return problem.line - FIRST, problem.path, problem.message, problem.hint[: len(row[4])]
