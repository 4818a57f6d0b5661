"""bench/policy-size: its policies are valid, its request is the last rule's, its report says what was measured."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from lockgate.bench.figures import Cell, Figures
from lockgate.bench.size_report import SizeReport
from lockgate.bench.size_rules import CLIENT, HEADER, SERVER, Kind, linear_rbac, policy, wanted_path, wanted_value
from lockgate.policies import Flow, HttpRequest, Verdict, World, endpoint_of, explain, parse_policies
from lockgate.policies.workload import Workload
from lockgate.tests.unit.bench.test_report import _MACHINE


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("rules", [9, 10])
def test_the_measured_request_is_allowed_by_the_last_rule_alone(kind: Kind, rules: int) -> None:
    request = HttpRequest("GET", wanted_path(rules), "s", {HEADER.lower(): wanted_value(rules)})

    def verdict(text: str, asked: HttpRequest) -> Verdict:
        parsed = parse_policies(text.encode(), "p.yaml")
        assert parsed.problems == ()
        endpoints = [endpoint_of(Workload(name, "default", (("app", name),))) for name in (CLIENT, SERVER)]
        return explain(World.of(parsed.policies, endpoints), Flow(CLIENT, SERVER, 80, request=asked)).verdict

    whole = policy(kind, rules, 80)
    assert whole.count("method: GET") == rules
    assert verdict(whole, request) is Verdict.ALLOW
    assert verdict(whole, HttpRequest("GET", "/other", "s", {HEADER.lower(): "key-none"})) is Verdict.DENY
    without_last = whole.rstrip("\n").rpartition("\n")[0] + "\n"
    assert verdict(without_last, request) is Verdict.DENY


@pytest.mark.parametrize("kind", Kind)
def test_the_list_has_each_rule_in_order(kind: Kind) -> None:
    found = linear_rbac(kind, 12, str(ip_address("10.0.0.1")))["rules"]["policies"]
    assert list(found) == sorted(found)
    assert len(found) == 12
    assert f"{11}" in json.dumps(found["rule-000011"])


def report(foreign: float) -> SizeReport:
    def cell(mode: str, requests: int) -> Cell:
        return Cell(mode, 16, 0, requests, 1.0, 1.0, 1.0, 1.0, 1.0, foreign, {"envoy": 0.5})

    labels = {"none": 1000, "paths": 950, "headers": 800, "linear-paths": 10, "linear-headers": 20}
    cells = tuple(cell(f"{label}-10", requests) for label, requests in labels.items())
    return SizeReport(_MACHINE, Figures(cells), (10,), 1, 1, 16, {f"{label}-10": 50.0 for label in labels})


def test_the_report_has_ratios_and_judges_the_compiled_ones() -> None:
    lines = [" ".join(line.replace("|", " ").split()) for line in report(0.0).markdown().splitlines()]
    assert "by path, compiled 0.95 (0.95-0.95)" in lines
    assert "by path, listed 100.00 (100.00-100.00)" in lines
    assert "by path, compiled: RPS >= 0.90 at 10 rules 0.95 (0.95-0.95) reached" in lines
    assert "by headerMatches, compiled: RPS >= 0.90 at 10 rules 0.80 (0.80-0.80) **not reached**" in lines
    data = json.loads(json.dumps(report(0.0).json()))
    assert len(data["cells"]) == 5
    assert not data["disturbed"] and report(0.5).json()["disturbed"]
