"""Values of options are what typer would have made of them, and pydantic stays away from an agent that starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lockgate.tests.command_line import lockgate

ASK = """
import sys
from lockgate.agent.cli import run
try:
    run()
except SystemExit as end:
    print(end.code)
print("pydantic" in sys.modules)
"""


def test_an_agent_that_starts_imports_no_pydantic(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    arguments = ["agent", "run", "--policies", "p", "--workloads", "w", "--state-dir", "s", "--config", str(config)]
    command = [sys.executable, "-P", "-c", ASK, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"--config {config}: No such file or directory" in ended.stderr
    assert ended.stdout.split()[-1] == "False"


@pytest.mark.parametrize("arguments", [("status", "-o", "json"), ("identity", "list"), ("datapath", "maps", "policy")])
def test_nor_does_a_command_that_only_asks(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-c", ASK, *arguments, "--run-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("agent", "run", "--policies", "p"), "Missing option '--workloads'"),
        (("agent", "run", "--policies"), "Option '--policies' requires an argument"),
        (("flows", "--last", "many"), "Invalid value for '-n' / '--last'"),
        (("policy", "get"), "Missing argument 'name'"),
        (("status", "-o", "xml"), "Invalid value for '-o' / '--output': 'xml' is not one of table, json, yaml."),
        (
            ("datapath", "maps", "x"),
            "Invalid value for 'name': 'x' is not one of endpoints, policy, ipcache, services.",
        ),
        (("demo", "--only", "x"), "'x' is not one of 'http', 'grpc', 'kafka'."),
    ],
)
def test_usage_errors_are_typers(arguments: tuple[str, ...], words: str) -> None:
    ended = lockgate(*arguments)
    assert ended.status == 2
    assert words in ended.err
