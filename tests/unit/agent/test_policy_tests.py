"""Carrying out test files: what they name is read from beside them, and nothing is judged on half of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.agent.policy_tests import FileResult, load_test, run_test
from lockgate.store import Document, read_policy_tests

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %s}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: %s}}]
"""
WORKLOADS = """\
workloads:
- {name: web, labels: {app: web}}
- {name: jobs, labels: {app: jobs}}
- {name: db, labels: {app: db}}
"""
CASES = """\
tests:
- {name: web, from: web, to: db, port: 5432, expect: allow}
- {name: jobs, from: jobs, to: db, port: 5432, expect: deny}
"""


@pytest.fixture(name="folder")
def a_folder_with_two_policies(tmp_path: Path) -> Path:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "web.yaml").write_text(POLICY % ("web", "web"))
    (policies / "jobs.yaml").write_text(POLICY % ("jobs", "jobs"))
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    (tmp_path / "tests").mkdir()
    return tmp_path


def run(folder: Path, text: str) -> FileResult:
    path = folder / "tests" / "x.test.yaml"
    path.write_text(text)
    (document,) = read_policy_tests(path)
    return run_test(document)


def faults(result: FileResult) -> list[str]:
    return [case.fault for case in result.results]


def test_paths_are_relative_to_the_test_file(folder: Path) -> None:
    result = run(folder, "policies: ../policies/web.yaml\nworkloads: ../workloads.yaml\n" + CASES)
    assert result.passed
    assert (result.problems, faults(result)) == ((), ["", ""])


def test_a_folder_is_all_of_its_policies(folder: Path) -> None:
    result = run(folder, "policies: ../policies\n" + WORKLOADS + CASES)
    assert not result.passed
    assert faults(result) == ["", "expected deny, got allow"]


def test_a_list_of_files_and_one_file_named_twice(folder: Path) -> None:
    text = "policies: [../policies/jobs.yaml, ../policies, ../policies/web.yaml]\n" + WORKLOADS + CASES
    assert faults(run(folder, text)) == ["", "expected deny, got allow"]


def test_an_absolute_path(folder: Path) -> None:
    assert run(folder, f"policies: {folder / 'policies' / 'web.yaml'}\n{WORKLOADS}{CASES}").passed


def test_a_path_that_leads_nowhere(folder: Path) -> None:
    result = run(folder, "policies:\n- ../policies\n- ../polcies\nworkloads: ../w.yaml\n" + CASES)
    tests = folder / "tests"
    assert [str(problem) for problem in result.problems] == [
        f"{tests}/x.test.yaml:3: policies[1]: {tests}/../polcies does not exist; paths are relative to the test file",
        f"{tests}/x.test.yaml:4: workloads: {tests}/../w.yaml does not exist; paths are relative to the test file",
    ]
    assert not result.passed
    assert faults(result) == [f"not judged: {result.problems[0]} (and 1 more)"] * 2


def test_a_policy_with_an_error_fails_every_case(folder: Path) -> None:
    (folder / "policies" / "web.yaml").write_text((POLICY % ("web", "web")).replace("ingress", "ingres"))
    result = run(folder, "policies: ../policies\n" + WORKLOADS + CASES)
    errors = [str(problem) for problem in result.problems if problem.is_error]
    assert "unknown field 'ingres'; did you mean 'ingress'?" in errors[0]
    assert not result.passed
    assert all(fault.startswith(f"not judged: {errors[0]}") for fault in faults(result))
    assert [case.verdict for case in result.results] == [None, None]


def test_an_error_in_the_test_file_fails_the_cases_that_are_left(folder: Path) -> None:
    result = run(folder, "policies: ../policies/web.yaml\n" + WORKLOADS + CASES + "- {name: third}\n")
    assert [case.case.name for case in result.results] == ["web", "jobs"]
    assert not result.passed
    assert all(fault.startswith("not judged: ") for fault in faults(result))


def test_a_warning_fails_nothing(folder: Path) -> None:
    policy = (POLICY % ("web", "web")).replace("{app: db}", "{app: db, k8s:io.kubernetes.pod.namespace: shop}")
    (folder / "policies" / "web.yaml").write_text(policy)
    result = run(folder, "policies: ../policies/web.yaml\n" + WORKLOADS + CASES)
    assert [problem.is_error for problem in result.problems] == [False]
    assert result.passed


def test_services_of_the_workloads_file_count(folder: Path) -> None:
    (folder / "workloads.yaml").write_text(WORKLOADS + "services:\n- {name: db, selector: {app: db}}\n")
    path = folder / "tests" / "x.test.yaml"
    path.write_text("policies: ../policies\nworkloads: ../workloads.yaml\nservices: [{name: web}]\n" + CASES)
    (document,) = read_policy_tests(path)
    world = load_test(document).world
    assert world is not None
    assert sorted(service.key for service in world._around.services) == ["default/db", "default/web"]


def test_a_file_that_could_not_be_read(folder: Path) -> None:
    result = run_test(Document("x.test.yaml", b"", "cannot be read: Permission denied"))
    assert [str(problem) for problem in result.problems] == ["x.test.yaml: cannot be read: Permission denied"]
    assert (result.passed, result.results) == (False, ())
