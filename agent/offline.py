"""The world of a folder of files, with no agent: for `policy validate`, `policy explain` and tests of policies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..policies import GrpcServices, Problem, World
from ..policies.identity import endpoint_of
from ..policies.lint import lint
from ..store import DirectoryStore, Document, StoreContent
from .errors import InputError
from .intake import Intake, NoMemory, admit


@dataclass(frozen=True, slots=True)
class Offline:
    """What the files say. `world` holds every valid policy; `problems` everything that was refused or warned about."""

    world: World
    problems: tuple[Problem, ...]


async def read_world(policies: Path, workloads: Path) -> Offline:
    """The world of the two paths.

    Raises:
        PathError: one of them does not exist.
        InputError: a file has an error; explaining half of what was written would mislead.
    """
    content = await DirectoryStore(policies, workloads).read()
    intake = admit(Intake(), content, NoMemory())
    errors = [str(problem) for problem in intake.problems if problem.is_error]
    if errors:
        raise InputError("\n".join(errors))
    world = World.of(
        intake.policies, [endpoint_of(workload) for workload in intake.workloads], services=intake.services
    )
    return Offline(world, intake.problems)


def check(
    policies: Iterable[Document], workloads: Iterable[Document] = (), grpc: GrpcServices | None = None
) -> tuple[Problem, ...]:
    """Every problem of these documents, in their order.

    With workloads also what only they can show: selectors that nobody matches and rules without any effect. With `grpc`
    also rules about a gRPC service or method that is not among these.
    """
    intake = admit(Intake(), StoreContent(tuple(policies), tuple(workloads)), NoMemory(), grpc)
    if not intake.workloads:
        return intake.problems
    world = World.of(
        intake.policies, [endpoint_of(workload) for workload in intake.workloads], services=intake.services
    )
    return (*intake.problems, *lint(world))
