"""`lockgate policy test`: flows with expected verdicts, judged from files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...policies.policy_test import CaseResult
from ...store import Document, PathError, read_policy_tests
from ..errors import InputError
from ..junit import JUnitCase, JUnitSuite, junit_xml
from ..policy_tests import FileResult, run_test
from .output import Format, FormatOption, data


def test(
    paths: Annotated[list[Path], typer.Argument(help="Test files, or folders with *.test.yaml.", metavar="FILE")],
    output: FormatOption = Format.TABLE,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write the results as JUnit XML, too.", metavar="FILE")
    ] = None,
) -> None:
    """Judge flows and compare with what is expected of the policies. Needs no agent. Exits 1 when a test fails."""
    files = [run_test(document) for document in _documents(paths)]
    if junit is not None:
        _write(junit, junit_xml(_suite(file) for file in files))
    if output is Format.TABLE:
        for file in files:
            _print(file)
        typer.echo(_summary(files))
    else:
        data({"passed": all(file.passed for file in files), "files": [_file_json(file) for file in files]}, output)
    if not all(file.passed for file in files):
        raise typer.Exit(1)


def _documents(paths: list[Path]) -> list[Document]:
    found: dict[str, Document] = {}
    for path in paths:
        try:
            documents = read_policy_tests(path)
        except PathError as error:
            raise typer.BadParameter(str(error)) from None
        if not documents:
            raise typer.BadParameter(f"{path}: no file named *.test.yaml; name a test file, or a folder of them")
        found |= {document.source: document for document in documents}
    return list(found.values())


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"--junit {path}: {error.strerror}; give a file that can be written") from None


def _print(file: FileResult) -> None:
    for problem in file.problems:
        typer.echo(str(problem), err=True)
    for result in file.results:
        if result.passed:
            typer.echo(f"ok    {file.source}: {result.case.name}")
            continue
        typer.echo(f"FAIL  {file.source}:{result.case.line}: {result.case.name}")
        for line in (result.fault, result.reason):
            if line:
                typer.echo(f"      {line}")


def _summary(files: list[FileResult]) -> str:
    results = [result for file in files for result in file.results]
    failed = sum(not result.passed for result in results)
    invalid = sum(any(problem.is_error for problem in file.problems) for file in files)
    counted = f"{len(results)} test{_s(len(results))} in {len(files)} file{_s(len(files))}"
    said = [f"{failed} failed"] if failed else []
    said += [f"{invalid} file{_s(invalid)} with errors"] if invalid else []
    return f"{counted}: {', '.join(said) or 'all passed'}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _file_json(file: FileResult) -> dict[str, Any]:
    return {
        "file": file.source,
        "passed": file.passed,
        "problems": [problem.to_json() for problem in file.problems],
        "tests": [_result_json(result) for result in file.results],
    }


def _result_json(result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "name": case.name,
        "line": case.line,
        "passed": result.passed,
        "expected": case.expect.value,
        "verdict": result.verdict.value if result.verdict else None,
        "rule": str(case.rule) if case.rule else None,
        "direction": case.direction.value if case.direction else None,
        "reason": result.reason,
        "fault": result.fault,
    }


def _suite(file: FileResult) -> JUnitSuite:
    errors = "\n".join(str(problem) for problem in file.problems if problem.is_error)
    cases = (JUnitCase(item.case.name, item.case.line, item.fault, item.reason) for item in file.results)
    return JUnitSuite(file.source, tuple(cases), errors)
