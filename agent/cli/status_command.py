"""`lockgate status`: the whole node on one screen."""

from __future__ import annotations

from typing import Any

import typer

from ..client import ask
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, fields


def status(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Agent, Envoy, xDS, datapath and policies; exits 1 when something is not in order."""
    answer = ask(run_dir, "/v1/status")
    if output is Format.TABLE:
        fields(_rows(answer))
    else:
        data(answer, output)
    if not answer["ok"]:
        raise typer.Exit(1)


def _rows(answer: dict[str, Any]) -> list[tuple[str, str]]:
    agent, envoy, policies, datapath = answer["agent"], answer["envoy"], answer["policies"], answer["datapath"]
    rows = [
        ("agent", f"{agent['state']}, pid {agent['pid']}, up {agent['up_seconds']:.0f} s, policy revision {agent['revision']}"),
        ("envoy", _envoy(envoy)),
    ]
    rows += [
        (
            "xds",
            f"{entry['state']} {entry['type']} ({entry['resources']} resources)" + (f": {entry['error']}" if entry["error"] else ""),
        )
        for entry in answer["xds"]
    ] or [("xds", "no Envoy connected")]
    rows += [
        (
            "policies",
            f"{policies['enforced']} enforced, {policies['stale']} of them in an older version, {policies['problems']} problems",
        ),
        ("endpoints", f"{answer['endpoints']['local']} local, {answer['endpoints']['known']} known"),
        ("datapath", f"{datapath['attached']} interfaces, {datapath['policy_entries']} policy entries, {datapath['dropped']} packets dropped"),
    ]
    return rows + [("problem", problem) for problem in answer["problems"]]


def _envoy(envoy: dict[str, Any]) -> str:
    text = f"{envoy['state']}, version {envoy['version']}"
    if envoy["pid"]:
        text += f", pid {envoy['pid']}"
    if envoy["restarts"]:
        text += f", {envoy['restarts']} restarts"
    return text + (f", last exit: {envoy['last_exit']}" if envoy["last_exit"] else "")
