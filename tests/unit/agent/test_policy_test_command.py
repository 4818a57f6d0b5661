"""`lockgate policy test` as a user's CI calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from lockgate.store import read_documents
from lockgate.tests.command_line import lockgate

EXAMPLES = Path(__file__).parents[3] / "policies" / "examples"
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
"""
TEST = """\
policies: db.yaml
workloads:
- {name: web, labels: {app: web}}
- {name: db, labels: {app: db}}
tests:
- {name: the web, from: web, to: db, port: 5432, expect: allow}
"""
FAILING = "- {name: the world, from: 192.0.2.1, to: db, port: 5432, expect: allow}\n"
WHY = "ingress: no rule allows it"


@pytest.fixture(name="folder")
def a_folder_with_a_policy_and_its_test(tmp_path: Path) -> Path:
    (tmp_path / "db.yaml").write_text(POLICY)
    (tmp_path / "db.test.yaml").write_text(TEST)
    return tmp_path


def test_all_examples_pass() -> None:
    ended = lockgate("policy", "test", EXAMPLES)
    assert (ended.status, ended.err) == (0, "")
    *lines, summary = ended.out.splitlines()
    assert all(line.startswith(f"ok    {EXAMPLES}/") for line in lines)
    assert summary == f"{len(lines)} tests in {len(list(EXAMPLES.glob('*.test.yaml')))} files: all passed"


def test_a_passing_file(folder: Path) -> None:
    path = folder / "db.test.yaml"
    ended = lockgate("policy", "test", path)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"ok    {path}: the web\n1 test in 1 file: all passed\n"


def test_a_failing_case(folder: Path) -> None:
    path = folder / "db.test.yaml"
    path.write_text(TEST + FAILING)
    ended = lockgate("policy", "test", path)
    assert (ended.status, ended.err) == (1, "")
    assert ended.out == (
        f"ok    {path}: the web\n"
        f"FAIL  {path}:7: the world\n"
        f"      expected allow, got deny\n"
        f"      {WHY}\n"
        "2 tests in 1 file: 1 failed\n"
    )


def test_a_policy_with_an_error_is_named_once_and_fails_its_cases(folder: Path) -> None:
    (folder / "db.yaml").write_text(POLICY.replace("fromEndpoints", "fromEndpoint"))
    path = folder / "db.test.yaml"
    ended = lockgate("policy", "test", path)
    error = (
        f"{folder}/db.yaml:7: spec.ingress[0].fromEndpoint: unknown field 'fromEndpoint'; "
        "did you mean 'fromEndpoints'?\n"
    )
    assert (ended.status, ended.err) == (1, error)
    assert ended.out == (
        f"FAIL  {path}:6: the web\n      not judged: {error}1 test in 1 file: 1 failed, 1 file with errors\n"
    )


def test_folders_are_searched_and_files_are_run_once(folder: Path) -> None:
    (folder / "team").mkdir()
    (folder / "team" / "more.test.yml").write_text(TEST.replace("db.yaml", "../db.yaml"))
    (folder / ".git").mkdir()
    (folder / ".git" / "hidden.test.yaml").write_text("not a test")
    ended = lockgate("policy", "test", folder, folder / "db.test.yaml")
    assert ended.status == 0
    assert ended.out.splitlines() == [
        f"ok    {folder}/db.test.yaml: the web",
        f"ok    {folder}/team/more.test.yml: the web",
        "2 tests in 2 files: all passed",
    ]


def test_a_test_file_may_have_any_name_when_it_is_named(folder: Path) -> None:
    (folder / "checks.yaml").write_text(TEST)
    assert lockgate("policy", "test", folder / "checks.yaml").status == 0


def test_as_data(folder: Path) -> None:
    path = folder / "db.test.yaml"
    path.write_text(TEST.replace("allow}", "allow, rule: db, direction: ingress}") + FAILING)
    ended = lockgate("policy", "test", path, "-o", "json")
    assert (ended.status, ended.err) == (1, "")
    world = {"name": "the world", "line": 7, "passed": False, "expected": "allow", "verdict": "deny"}
    assert ended.data["passed"] is False
    (file,) = ended.data["files"]
    assert (file["file"], file["passed"], file["problems"]) == (str(path), False, [])
    assert file["tests"][0] == {
        "name": "the web",
        "line": 6,
        "passed": True,
        "expected": "allow",
        "verdict": "allow",
        "rule": "db",
        "direction": "ingress",
        "reason": "ingress: allowed by default/db:spec.ingress[0]",
        "fault": "",
    }
    fault = {"rule": None, "direction": None, "reason": WHY, "fault": "expected allow, got deny"}
    assert file["tests"][1] == world | fault
    assert yaml.safe_load(lockgate("policy", "test", path, "-o", "yaml").out) == ended.data


def test_problems_as_data(folder: Path) -> None:
    path = folder / "db.test.yaml"
    path.write_text(TEST.replace("port", "prot"))
    ended = lockgate("policy", "test", path, "-o", "json")
    assert ended.status == 1
    (file,) = ended.data["files"]
    assert [(problem["line"], problem["path"]) for problem in file["problems"]] == [
        (6, "tests[0].prot"),
        (6, "tests[0]"),
    ]
    assert file["tests"] == []


def test_junit(folder: Path) -> None:
    path, report = folder / "db.test.yaml", folder / "report.xml"
    path.write_text(TEST + FAILING)
    ended = lockgate("policy", "test", path, "--junit", report)
    assert ended.status == 1
    root = ElementTree.parse(report).getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "0")
    assert [(case.get("name"), case.findtext("failure")) for case in root.iter("testcase")] == [
        ("the web", None),
        ("the world", f"expected allow, got deny\n{WHY}"),
    ]


def test_junit_of_a_file_with_errors(folder: Path) -> None:
    (folder / "db.yaml").unlink()
    report = folder / "report.xml"
    assert lockgate("policy", "test", folder, "--junit", report).status == 1
    root = ElementTree.parse(report).getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "1")
    assert "db.yaml does not exist" in (root.findtext("testsuite/testcase/error") or "")


def test_a_report_that_cannot_be_written(folder: Path) -> None:
    ended = lockgate("policy", "test", folder, "--junit", folder / "no" / "report.xml")
    assert ended.status == 1
    assert ended.sentence == (
        f"--junit {folder}/no/report.xml: No such file or directory; give a file that can be written"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing argument 'FILE'"),
        (["nowhere.test.yaml"], "nowhere.test.yaml: no such file or directory"),
        (["empty"], "empty: no file named *.test.yaml"),
        (["db.test.yaml", "-o", "xml"], "'xml' is not one of"),
    ],
)
def test_usage(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    ended = lockgate("policy", "test", *arguments)
    assert ended.status == 2
    assert sentence in ended.err
    assert ended.out == ""


def test_test_files_are_no_policies(folder: Path) -> None:
    """In a folder that is enforced, validated or explained they stand beside the policies and are left out."""
    assert [Path(document.source).name for document in read_documents(folder)] == ["db.yaml"]
    ended = lockgate("policy", "validate", folder)
    assert (ended.status, ended.out, ended.err) == (0, f"{folder}/db.yaml: valid\n", "")


def test_the_installed_command(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "lockgate", "policy", "test", "db.test.yaml"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "ok    db.test.yaml: the web\n1 test in 1 file: all passed\n"
