"""Printing data: a table for people, JSON or YAML for tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


_PIPE_WIDTH = 4096  # columns; a table takes only what it needs

FormatOption = Annotated[Format, typer.Option("-o", "--output", help="How to print: for people or for tools.")]


def data(value: Any, form: Format) -> None:
    """Prints `value` (JSON types) as JSON or YAML."""
    if form is Format.YAML:
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n")
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    typer.echo(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Prints rows under `columns`. In a pipe the table is as wide as it needs to be, so that nothing is cut."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    grid = Table(title=title or None, box=None, pad_edge=False, title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(str(cell).replace("[", r"\[") for cell in row))
    console.print(grid)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Prints one record, a field a line."""
    shown = [(name, str(value)) for name, value in pairs]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = value.split("\n")
        typer.echo(f"{name:<{width}}  {first}")
        for line in rest:
            typer.echo(f"{'':<{width}}  {line}")
