"""`lockgate datapath`: the kernel's side."""

from __future__ import annotations

import typer

from ..client import ask
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, fields, table

app = typer.Typer(help="The kernel's side: programs, maps, counters.", no_args_is_help=True)


@app.callback()
def _datapath() -> None:
    """The kernel's side: programs, maps, counters."""


@app.command()
def status(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Attached interfaces, the size of each map, and packets by what was decided about them."""
    answer = ask(run_dir, "/v1/datapath")
    if output is not Format.TABLE:
        data(answer, output)
        return
    fields(
        [
            ("pins", answer["pin_dir"]),
            ("interfaces", "\n".join(answer["interfaces"]) or "none"),
            ("uplinks", "\n".join(answer["uplinks"]) or "none"),
            *((f"map {name}", f"{entries} entries") for name, entries in answer["maps"].items()),
        ]
    )
    rows = [row for row in answer["counters"] if row["packets"]]
    table(
        ("DIRECTION", "REASON", "PACKETS", "MEANING"),
        ((row["direction"], row["reason"], row["packets"], row["meaning"]) for row in rows),
    )
