"""`lockgate status`: the whole node on one screen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..inspection.client import ask
from ..inspection.readiness import enforces
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, fields


def status(
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
    ready: Annotated[
        bool, typer.Option("--ready", help="Exit 0 when the node enforces, whatever else there is to complain about.")
    ] = False,
) -> None:
    """The node on one screen: agent, Envoy, xDS, kernel and policies.

    Exits 1 when something is not in order."""
    answer = ask(run_dir, "/v1/status")
    if output is Format.TABLE:
        fields(_rows(answer))
    else:
        data(answer, output)
    if not (enforces(answer) if ready else answer["ok"]):
        raise typer.Exit(1)


def _rows(answer: dict[str, Any]) -> list[tuple[str, str]]:
    agent, policies, datapath, endpoints = (answer[part] for part in ("agent", "policies", "datapath", "endpoints"))
    up = f"up {agent['up_seconds']:.0f} s"
    rows = [
        ("agent", f"{agent['state']}, pid {agent['pid']}, {up}, policy revision {agent['revision']}"),
        ("envoy", answer["envoy"]["sentence"]),
    ]
    rows += [("xds", _xds(entry)) for entry in answer["xds"]] or [("xds", "no Envoy connected")]
    counts = f"{policies['enforced']} enforced, {policies['stale']} of them in an older version"
    if policies["nacked"]:
        counts += f", {policies['nacked']} refused by Envoy"
    if policies["overfull"]:
        counts += f", {policies['overfull']} without room in the kernel"
    rows += [
        ("policies", f"{counts}, {policies['problems']} problems"),
        ("endpoints", f"{endpoints['local']} local, {endpoints['known']} known"),
        (
            "datapath",
            f"{datapath['attached']} interfaces, {_groups(datapath['groups'])}{datapath['uplinks']} uplinks, "
            f"{datapath['policy_entries']} policy entries, {datapath['dropped']} packets dropped",
        ),
    ]
    services = answer["services"]
    if services["addresses"]:
        serving = f"{services['serving']} of {services['backends']} backends serve"
        rows.append(("services", f"{services['addresses']} addresses with ports, {serving}"))
    notes = [("note", note) for note in answer["notes"]]
    return rows + [("problem", problem) for problem in answer["problems"]] + notes


def _groups(count: int) -> str:
    return f"{count} control groups, " if count else ""


def _xds(entry: dict[str, Any]) -> str:
    where = f", remote node {entry['node']}" if entry["remote"] else ""
    text = f"{entry['state']} {entry['type']}, {len(entry['resources'])} resources{where}"
    return f"{text}: {entry['error']}" if entry["error"] else text
