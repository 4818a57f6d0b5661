"""`lockgate service`: services' own addresses."""

from __future__ import annotations

import typer

from ..inspection.client import ask
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, table

app = typer.Typer(help="Services' own addresses and who serves there.", no_args_is_help=True)


@app.callback()
def _service() -> None:
    """Services' own addresses and who serves there."""


@app.command("list")
def list_services(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Every address with its backends, their weights and health.

    WHY is what a backend answered when it was asked for its health."""
    answer = ask(run_dir, "/v1/services")
    if output is not Format.TABLE:
        data(answer, output)
        return
    table(
        ("SERVICE", "ADDRESS", "PORT", "BACKEND", "WEIGHT", "HEALTH", "WHY"),
        (
            (
                entry["service"],
                entry["address"],
                f"{entry['port']}/{entry['protocol']}",
                f"{backend['address']} port {backend['port']}",
                backend["weight"],
                backend["health"],
                backend["why"] or "-",
            )
            for entry in answer
            for backend in entry["backends"]
        ),
    )
