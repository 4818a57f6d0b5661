"""The world of a folder of files, with no agent: for `policy validate`, `policy explain` and tests of policies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...policies import GrpcServices, ParsedPolicies, Problem, World, parse_policies
from ...policies.identity import endpoint_of
from ...policies.language.lint import lint
from ...store import Document, PathError, StoreContent, read_documents
from ..errors import NoVerdictError
from .intake import Intake, NoMemory, admit


@dataclass(frozen=True, slots=True)
class Offline:
    """What the files say. `world` holds every valid policy; `problems` everything that was refused or warned about."""

    world: World
    problems: tuple[Problem, ...]


def read_world(policies: Path, workloads: Path) -> Offline:
    """The world of the two paths.

    Raises:
        NoVerdictError: one of them does not exist, or a file has an error; explaining half of what was written would
            mislead.
    """
    try:
        content = StoreContent(read_documents(policies), read_documents(workloads))
    except PathError as error:
        raise NoVerdictError(str(error)) from None
    intake = admit(Intake(), content, NoMemory())
    errors = [str(problem) for problem in intake.problems if problem.is_error]
    if errors:
        raise NoVerdictError("\n".join(errors))
    return Offline(_world(intake), intake.problems)


@dataclass(frozen=True, slots=True)
class Checked:
    """What there is to say of documents: every problem, in their order, and how many good policies they hold."""

    problems: tuple[Problem, ...]
    policies: int


def check(
    policies: Iterable[Document], workloads: Iterable[Document] = (), grpc: GrpcServices | None = None
) -> Checked:
    """Looks at these documents.

    With workloads these are all that there is to a node, and it is told what only the whole can show: selectors that
    nobody matches, rules without any effect and secrets that are missing. With `grpc` also rules about a gRPC service
    or method that is not among these.
    """

    def parse(document: Document) -> ParsedPolicies:
        return parse_policies(document.data, document.source, grpc=grpc)

    intake = admit(Intake(), StoreContent(tuple(policies), tuple(workloads)), NoMemory(), parse)
    count = len(intake.policies)
    if not intake.workloads:
        return Checked(intake.problems, count)
    lacking = (problem for problems in intake.lacking.values() for problem in problems)
    return Checked((*intake.problems, *lacking, *lint(_world(intake))), count)


def _world(intake: Intake) -> World:
    return World.of(
        intake.policies,
        [endpoint_of(workload) for workload in intake.workloads],
        services=intake.services,
        nodes=intake.nodes,
        secrets=intake.header_values.values,
        tls=intake.tls,
    )
