"""`lockgate xds`: what each Envoy was sent, what it took and what it refused."""

from __future__ import annotations

import typer

from ..inspection.client import ask
from . import certificate_group
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, table

app = typer.Typer(help="What each Envoy was sent and what it made of it.", no_args_is_help=True)


app.add_typer(certificate_group.app, name="certificate")


@app.callback()
def _xds() -> None:
    """What each Envoy was sent and what it made of it."""


@app.command()
def status(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """What each Envoy has confirmed: SYNCED, STALE or NACK.

    By type of resource, with versions, since when, and Envoy's words. A version here stands for all resources of the
    type: `xds resources` has them one by one. Exits 1 unless all are SYNCED."""
    answer = ask(run_dir, "/v1/xds")
    if output is Format.TABLE:
        table(
            ("NODE", "TYPE", "STATE", "RESOURCES", "PUBLISHED", "HELD", "SINCE", "ERROR"),
            (
                (
                    entry["node"],
                    entry["type"],
                    entry["state"],
                    len(entry["resources"]),
                    entry["published"] or "-",
                    entry["held"] or "-",
                    entry["since"],
                    entry["error"] or "-",
                )
                for entry in answer
            ),
        )
    else:
        data(answer, output)
    if not answer or any(entry["state"] != "SYNCED" for entry in answer):
        raise typer.Exit(1)


@app.command()
def resources(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Every resource that an Envoy asked for, by version.

    The version that is published, the one that it confirmed, and the one that it said it enforces when it was last
    asked."""
    rows = [
        {"node": entry["node"], "type": entry["type"], **resource}
        for entry in ask(run_dir, "/v1/xds")
        for resource in entry["resources"]
    ]
    if output is not Format.TABLE:
        data(rows, output)
        return
    table(
        ("NODE", "TYPE", "NAME", "STATE", "PUBLISHED", "HELD", "IN FORCE", "ERROR"),
        (
            (
                row["node"],
                row["type"],
                row["name"],
                row["state"],
                row["published"] or "-",
                row["held"] or "-",
                row["in_force"] or "-",
                row["error"] or "-",
            )
            for row in rows
        ),
    )
