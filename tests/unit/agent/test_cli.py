"""The command line as a whole: help, usage, and how errors leave it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
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


@pytest.mark.parametrize("path", [path for path in [(), *COMMANDS] if any(each[:-1] == path for each in COMMANDS)])
def test_no_line_of_a_list_of_commands_is_cut(path: tuple[str, ...]) -> None:
    listed = lockgate(*path, "--help").out.partition("Commands:")[2]
    assert listed and "..." not in listed


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
        ("policy", "validate", "nowhere.yaml"),
        ("policy", "validate", __file__, "--workloads", "nowhere.yaml"),
        ("xds", "certificate", "node", "a b", "-a", "x", "-d", "x"),
        (
            *("envoy", "bootstrap", "--node", "a", "--authority", "a", "--certificate", "b", "--key", "c", "-d", "d"),
            *("--server", "x"),
        ),
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


def test_why_envoy_does_not_answer_is_said_in_words(tmp_path: Path) -> None:
    ended = lockgate("envoy", "clusters", "--run-dir", tmp_path)
    assert f"on {tmp_path}/admin.sock (No such file or directory); is it running?" in ended.sentence
    deep = tmp_path / ("d" * 120)
    assert "(AF_UNIX path too long)" in lockgate("envoy", "clusters", "--run-dir", deep).sentence


@pytest.mark.parametrize("setting", ["nope", "x=", "=info", "=", "admin=loud"])
def test_a_level_that_envoy_does_not_have(setting: str, tmp_path: Path) -> None:
    ended = lockgate("envoy", "logging", setting, "--run-dir", tmp_path)
    assert ended.status == 2
    assert f"{setting}: write LOGGER=LEVEL or LEVEL, which is one of trace, debug" in ended.err


def test_flows_where_there_never_was_an_agent(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for place, sentence in (
        (tmp_path, f"nobody has logged anything in {tmp_path}: look where an agent is, "),
        (missing, f"{missing} does not exist: start an agent with 'lockgate agent run', "),
    ):
        ended = lockgate("flows", "--run-dir", place)
        assert (ended.status, ended.out) == (3, "")
        assert ended.sentence.startswith(sentence)


def test_following_ends_with_its_reader(tmp_path: Path) -> None:
    """`lockgate flows -f | head -1`, also where nothing more happens that it could say."""
    (tmp_path / "requests.jsonl").touch()
    command = [sys.executable, "-P", "-m", "lockgate", "flows", "-f", "--run-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        try:
            process.wait(60)
        finally:
            process.kill()
        assert (process.returncode, process.stderr.read()) == (0, b"")


def test_who_is_not_root_is_told_so(tmp_path: Path) -> None:
    """Not that there is no agent."""
    socket_file = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(socket_file))
        agent.listen()
        socket_file.chmod(0o600)
        for folder in (tmp_path, *tmp_path.parents[:-2]):
            folder.chmod(0o755)
        command = [sys.executable, "-P", "-m", "lockgate"]
        for arguments, status, sentence in (
            (("status",), 3, f"{socket_file} is for root only; run it with sudo"),
            (("datapath", "maps"), 1, "is for root only; run it with sudo"),
            (("flows",), 3, f"nobody has logged anything in {tmp_path}: look as root (sudo) where an agent is"),
        ):
            ended = subprocess.run(
                [*command, *arguments, "--run-dir", tmp_path],
                capture_output=True,
                text=True,
                check=False,
                user=65534,
                group=65534,
                extra_groups=[],
            )
            assert (ended.returncode, ended.stdout) == (status, "")
            assert sentence in ended.stderr


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


def test_a_table_in_a_pipe_has_no_blanks_at_the_end_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    table(("A", "WIDE"), [("ü語", "x"), (":smile:", "\\[a")])
    assert capsys.readouterr().out == "A        WIDE\nü語      x\n:smile:  \\[a\n"


def test_a_table_on_a_screen_fits_and_keeps_what_looks_like_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    table(("A", "B"), [(r"\[a-z] [bold] :x:", "y" * 30)])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in plain.splitlines()]
    assert all(len(line) <= 20 for line in lines) and len(lines) > 3
    assert "".join(line[: lines[0].index("B")].strip() for line in lines[1:]).replace(" ", "") == r"\[a-z][bold]:x:"


def test_control_characters_of_pods_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table(("A",), [("/\x1b[2J\r",)])
    fields([("a", "\x1b]0;x\x07\nb")])
    assert capsys.readouterr().out == "A\n/\\x1b[2J\\r\na  \\x1b]0;x\\x07\n   b\n"


def test_records_are_aligned_under_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    fields([("a", "one\ntwo"), ("long", 3)])
    assert capsys.readouterr().out == "a     one\n      two\nlong  3\n"


def test_data_keeps_its_order_and_its_letters(capsys: pytest.CaptureFixture[str]) -> None:
    data({"b": "ü", "a": [1]}, Format.JSON)
    data({"b": "ü", "a": [1]}, Format.YAML)
    assert capsys.readouterr().out == '{\n  "b": "ü",\n  "a": [\n    1\n  ]\n}\nb: ü\na:\n- 1\n'
