"""Printing data: a table for people, JSON or YAML for tools."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.cells import cell_len, set_cell_size


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


FormatOption = Annotated[Format, typer.Option("-o", "--output", help="How to print: for people or for tools.")]


class _Dumper(yaml.SafeDumper):
    """Takes answers of the agent for what they are."""


_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)


def data(value: Any, form: Format) -> None:
    """Prints `value` (JSON types) as JSON or YAML."""
    if form is Format.YAML:
        text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True).rstrip("\n")
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    typer.echo(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows under `columns`. In a pipe the table is as wide as it needs to be, and nothing is cut or coloured."""
    shown = [[printable(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _folded(columns, shown)
    else:
        for line in _lines([list(columns), *shown]):
            typer.echo(line)


def _folded(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """On a screen, whose width is known."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    Console(highlight=False).print(grid)


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()


def reader_left(patience: float) -> bool:
    """Waits so many seconds; True at once when standard output is a pipe that nobody reads any more, which who has
    nothing to say would not notice."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, or not the system's
        time.sleep(patience)
        return False
    waiting = select.poll()
    waiting.register(descriptor, 0)  # of POLLERR and POLLHUP the kernel tells unasked
    return bool(waiting.poll(patience * 1000))


def printable(text: str) -> str:
    """What comes from pods must not command the terminal that shows it: control characters are written as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Prints one record, a field a line."""
    shown = [(name, str(value)) for name, value in pairs]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = map(printable, value.split("\n"))
        typer.echo(f"{name:<{width}}  {first}")
        for line in rest:
            typer.echo(f"{'':<{width}}  {line}")
