"""docs/cli.md names every command with its options, and none that is not there; other pages name only what exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from lockgate.agent.cli.app import app
from typer.core import TyperGroup
from typer.main import get_command

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHARED = {("-o", "--output"), ("--run-dir",)}  # the page tells once what they mean everywhere
CODE = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)", re.IGNORECASE)


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command that is no group, by its whole name."""
    if not isinstance(command, TyperGroup):
        yield " ".join(path), command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), *path, name)


def options(command: Any) -> set[str]:
    """Those of its own, each with all its names."""
    own = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    return {name for param in own if tuple(param.opts) not in SHARED for name in (*param.opts, *param.secondary_opts)}


def rows() -> dict[str, str]:
    """The options' cell of each command. A row may tell of several commands."""
    found = {}
    for line in (ROOT / "docs" / "cli.md").read_text().partition("\n## All commands\n")[2].splitlines():
        if line.startswith("| `"):
            named, cell = re.split(r"(?<!\\)\|", line)[1:3]
            for code in CODE.findall(named.partition(": ")[0]):
                found[re.sub(r"( [\[A-Z].*)$", "", code)] = cell
    return found


COMMANDS = dict(commands(get_command(app)))
ROWS = rows()


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert ROWS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_row_has_the_options(name: str) -> None:
    told = {option for code in CODE.findall(ROWS[name]) for option in OPTION.findall(code)}
    assert told == options(COMMANDS[name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_calls_exists(page: Path) -> None:
    groups = {name.rpartition(" ")[0] for name in COMMANDS}
    for words in re.findall(r"(?:`|\$ |\$ sudo )lockgate ([a-z][a-z-]*(?: [a-z-]+)*)", page.read_text()):
        assert words in groups or any(f"{words} ".startswith(f"{name} ") for name in COMMANDS), words
