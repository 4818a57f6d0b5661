"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ..settings import DEFAULT_CACHE_DIR, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR

# `readable`: who may not read them is told so by what opens them.
RunDir = Annotated[
    Path,
    typer.Option("--run-dir", envvar="LOCKGATE_RUN_DIR", help="Sockets and logs of the agent.", readable=False),
]
StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir", envvar="LOCKGATE_STATE_DIR", help="What the agent keeps across restarts.", readable=False
    ),
]
CacheDir = Annotated[
    Path,
    typer.Option("--cache-dir", envvar="LOCKGATE_CACHE_DIR", help="What need not be compiled again. For any agent."),
]
Policies = Annotated[Path, typer.Option("--policies", help="A policy file, or a folder of them.")]
Workloads = Annotated[Path, typer.Option("--workloads", help="A workloads file, or a folder of them.")]

RUN_DIR = DEFAULT_RUN_DIR
STATE_DIR = DEFAULT_STATE_DIR
CACHE_DIR = DEFAULT_CACHE_DIR


def known_names(path: str, field: str) -> Callable[[typer.Context, str], list[str]]:
    """For shell completion: the names that a running agent answers with under `path`; none without an agent."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        from ..errors import AgentError
        from ..inspection.client import ask

        names: list[str] = []
        with suppress(AgentError):
            names = [str(entry[field]) for entry in ask(Path(context.params.get("run_dir") or RUN_DIR), path)]
        return [name for name in names if name.startswith(incomplete)]

    return complete
