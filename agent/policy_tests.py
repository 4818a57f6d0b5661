"""Carrying out test files of policies: reading what they name, and judging their flows in that world."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..policies import Problem, World, endpoint_of
from ..policies.policy_test import Case, CaseResult, FileRef, PolicyTest, parse_policy_test, run_case
from ..store import Document, PathError, StoreContent, read_documents
from .supply.intake import Intake, NoMemory, admit


@dataclass(frozen=True, slots=True)
class FileResult:
    """One test file. `problems` are those of the file and of all that it names; `results` has one entry for each case.

    When there is an error among the problems nothing is judged, and every case that could be read has failed.
    """

    source: str
    problems: tuple[Problem, ...]
    results: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        """True when there is no error and every case passed."""
        return not any(problem.is_error for problem in self.problems) and all(result.passed for result in self.results)


@dataclass(frozen=True, slots=True)
class LoadedTest:
    """A test file with the world it speaks about; `world` is None when something has an error."""

    test: PolicyTest
    problems: tuple[Problem, ...]
    world: World | None


def run_test(document: Document) -> FileResult:
    """Read what the test file names, relative to its own place, and judge its cases."""
    loaded = load_test(document)
    if loaded.world is None:
        results = tuple(_unjudged(case, loaded.problems) for case in loaded.test.cases)
    else:
        world = loaded.world
        results = tuple(run_case(world, case) for case in loaded.test.cases)
    return FileResult(document.source, loaded.problems, results)


def load_test(document: Document) -> LoadedTest:
    """The test file and its world."""
    if document.failure:
        problem = Problem(document.source, 0, "", document.failure)
        return LoadedTest(PolicyTest(document.source), (problem,), None)
    test = parse_policy_test(document.data, document.source)
    missing: list[Problem] = []
    content = StoreContent(_read(test, test.policies, missing), _read(test, test.workload_files, missing))
    intake = admit(Intake(), content, NoMemory())
    problems = (*test.problems, *missing, *intake.problems)
    if any(problem.is_error for problem in problems):
        return LoadedTest(test, problems, None)
    world = World.of(
        intake.policies,
        [endpoint_of(workload) for workload in (*intake.workloads, *test.workloads)],
        services=(*intake.services, *test.services),
        nodes=intake.nodes,
        names=dict(test.names),
        secrets=intake.header_values.values,
        tls=intake.tls,
    )
    return LoadedTest(test, problems, world)


def _read(test: PolicyTest, references: Iterable[FileRef], missing: list[Problem]) -> tuple[Document, ...]:
    found: dict[str, Document] = {}
    for reference in references:
        path = Path(test.source).parent / reference.path
        try:
            found |= {document.source: document for document in read_documents(path)}
        except PathError:
            hint = "paths are relative to the test file"
            missing.append(Problem(test.source, reference.line, reference.field, f"{path} does not exist", hint))
    return tuple(found.values())


def _unjudged(case: Case, problems: tuple[Problem, ...]) -> CaseResult:
    errors = [str(problem) for problem in problems if problem.is_error]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return CaseResult(case, None, "", f"not judged: {errors[0]}{more}")
