"""The command line as a whole: help, usage, and how errors leave it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from lockgate.agent.cli.app import app
from lockgate.agent.cli.output import Format, data, fields, table
from lockgate.tests.command_line import lockgate
from typer.core import TyperGroup
from typer.main import get_command

ASKS_AGENT = (
    ("status",),
    ("policy", "list"),
    ("policy", "get", "x"),
    ("endpoint", "list"),
    ("identity", "list"),
    ("service", "list"),
    ("xds", "status"),
    ("xds", "resources"),
    ("datapath", "status"),
    ("envoy", "rbac", "x"),
    ("envoy", "restart"),
)
ASKS_ENVOY = tuple(("envoy", name) for name in ("config", "clusters", "listeners", "stats", "certs", "server-info"))


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), *path, name)


COMMANDS = list(commands(get_command(app)))


def test_the_commands_are_those_of_the_public_surface() -> None:
    leaves = {" ".join(path) for path in COMMANDS if not any(other[:-1] == path for other in COMMANDS)}
    offline = {"agent run", "agent clean", "demo", "policy validate", "policy explain", "policy test", "envoy logging"}
    offline |= {"flows", "datapath maps", "datapath doctor", "envoy bootstrap"}
    offline |= {f"xds certificate {kind}" for kind in ("authority", "server", "node")}
    assert leaves == offline | {" ".join(command[:2]) for command in ASKS_AGENT + ASKS_ENVOY}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_text(path: tuple[str, ...]) -> None:
    ended = lockgate(*path, "--help")
    assert (ended.status, ended.err) == (0, "")
    description = ended.out.split("\n\n")[1].strip()
    assert description.endswith((".", ".")) and len(description) > 10, description
    for line in ended.out.splitlines():
        if line.startswith("  --"):
            assert len(line.split(None, 1)) == 2, f"an option without a word about it: {line}"


@pytest.mark.parametrize("path", [(), ("policy",), ("agent",), ("envoy",)], ids=" ".join)
def test_a_group_alone_shows_its_help(path: tuple[str, ...]) -> None:
    ended = lockgate(*path)
    assert ended.status == 2
    assert "Commands:" in ended.out + ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("policy", "frobnicate"),
        ("policy", "validate"),
        ("policy", "validate", "--frobnicate", "x"),
        ("policy", "list", "-o", "xml"),
        ("agent", "run"),
        ("agent", "run", "--policies", "x"),
        ("status", "extra"),
        ("envoy", "stats", "-f", "("),
        ("envoy", "config", "everything"),
    ],
    ids=" ".join,
)
def test_usage_errors_end_with_2(arguments: tuple[str, ...]) -> None:
    ended = lockgate(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert "Error: " in ended.err


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize("command", ASKS_AGENT, ids=" ".join)
def test_without_an_agent_the_status_is_3(command: tuple[str, ...], form: str, tmp_path: Path) -> None:
    ended = lockgate(*command, "-o", form, "--run-dir", tmp_path)
    assert (ended.status, ended.out) == (3, "")
    assert ended.sentence == (
        f"no agent answers on {tmp_path}/agent.sock (No such file or directory): "
        "start one with 'lockgate agent run', or give its --run-dir"
    )


@pytest.mark.parametrize("command", [*ASKS_ENVOY, ("envoy", "logging")], ids=" ".join)
def test_without_an_envoy_the_status_is_3(command: tuple[str, ...], tmp_path: Path) -> None:
    ended = lockgate(*command, "--run-dir", tmp_path)
    assert (ended.status, ended.out) == (3, "")
    assert f"Envoy does not answer on {tmp_path}/admin.sock" in ended.sentence


def test_the_run_dir_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKGATE_RUN_DIR", str(tmp_path))
    assert f"{tmp_path}/agent.sock" in lockgate("status").sentence


def test_version() -> None:
    assert lockgate("--version").out == "lockgate 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--config", "{tmp}/missing"), "--config {tmp}/missing: No such file or directory"),
        (("--envoy", "{tmp}"), "{tmp}"),
    ],
)
def test_an_agent_that_cannot_start_says_why(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("workloads: []\n")
    common = ("--policies", tmp_path, "--workloads", tmp_path / "w.yaml", "--run-dir", tmp_path / "run")
    ended = lockgate("agent", "run", *common, *(text.format(tmp=tmp_path) for text in arguments))
    assert ended.status == 1
    assert sentence.format(tmp=tmp_path) in ended.sentence
    assert not (tmp_path / "run").exists()


def test_tables_keep_what_looks_like_markup_and_are_never_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    wide = "x" * 100
    table(("A", "B"), [("spec.ingress[0].toPorts[0]", wide), ("[bold]", 7)])
    out = capsys.readouterr().out
    assert "spec.ingress[0].toPorts[0]" in out
    assert "[bold]" in out
    assert wide in out


def test_records_are_aligned_under_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    fields([("a", "one\ntwo"), ("long", 3)])
    assert capsys.readouterr().out == "a     one\n      two\nlong  3\n"


def test_data_keeps_its_order_and_its_letters(capsys: pytest.CaptureFixture[str]) -> None:
    data({"b": "ü", "a": [1]}, Format.JSON)
    data({"b": "ü", "a": [1]}, Format.YAML)
    assert capsys.readouterr().out == '{\n  "b": "ü",\n  "a": [\n    1\n  ]\n}\nb: ü\na:\n- 1\n'
