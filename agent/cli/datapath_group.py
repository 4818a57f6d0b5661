"""`lockgate datapath`: the kernel's side."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UnreachableError
from ..inspection.client import ask
from .labels import own_labels
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, fields, table

app = typer.Typer(help="The kernel's side: programs, maps, counters.", no_args_is_help=True)


@app.callback()
def _datapath() -> None:
    """The kernel's side: programs, maps, counters."""


@app.command()
def status(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Interfaces, sizes of maps, and packets by what was decided."""
    answer = ask(run_dir, "/v1/datapath")
    if output is not Format.TABLE:
        data(answer, output)
        return
    fields(
        [
            ("pins", answer["pin_dir"]),
            ("interfaces", "\n".join(answer["interfaces"]) or "none"),
            ("control groups", "\n".join(answer["groups"]) or "none"),
            ("uplinks", "\n".join(answer["uplinks"]) or "none"),
            ("guarded bridges", "\n".join(answer["bridges"]) or "none"),
            ("new ports of theirs", _newcomers(answer["newcomers"])),
            ("unknown pods", _unseen(answer["unseen_pods"])),
            ("host routing", "\n".join(answer["host_routing"]["interfaces"]) or _STATES[answer["host_routing"]["on"]]),
            *((f"map {name}", f"{entries} entries") for name, entries in answer["maps"].items()),
        ]
    )
    rows = [row for row in answer["counters"] if row["packets"]]
    table(
        ("DIRECTION", "REASON", "PACKETS", "MEANING"),
        ((row["direction"], row["reason"], row["packets"], row["meaning"]) for row in rows),
    )


_STATES = {False: "off", True: "on, and to no interface"}


def _newcomers(told: dict[str, Any]) -> str:
    if not told["mute"]:
        return "let be"
    return f"mute until they are policed, also while no agent runs; {told['dropped']} frames dropped"


def _unseen(told: dict[str, Any]) -> str:
    if not told["cut_off"]:
        return "let be"
    who = "\n".join([*told["prefixes"], *told["interfaces"]]) or "none yet"
    return f"{who}\ncut off until they are policed, also while no agent runs; {told['dropped']} packets dropped"


class MapName(StrEnum):
    """The maps that say what is enforced."""

    ENDPOINTS = "endpoints"
    POLICY = "policy"
    IPCACHE = "ipcache"
    SERVICES = "services"


@app.command()
def maps(
    name: Annotated[MapName, typer.Argument(help="Which map.")] = MapName.POLICY,
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """The entries of a kernel map: what is enforced.

    They are read from its pin, whether an agent runs or not.

    endpoints: the numbers of the policies in force at each interface. policy: verdicts by policy number, peer identity
    and port, of which the longest port prefix counts. ipcache: the identity behind each prefix. services: who is given
    to those that ask for a service's address, with weights.
    """
    from ...redirect.kernel.map_dump import read_map
    from ..settings import Settings

    settings = Settings(policies=Path(), workloads=Path(), run_dir=run_dir.absolute())
    spelt = own_labels if output is Format.TABLE else ",".join
    entries = _named(read_map(settings.pin_dir, name), run_dir, spelt)
    if output is not Format.TABLE:
        data(entries, output)
        return
    if not entries:
        typer.echo(f"the map {name} is empty")
        return
    columns = list(entries[0])
    table(
        [column.replace("_", " ").upper() for column in columns],
        ([_cell(entry[column]) for column in columns] for entry in entries),
    )


def _named(entries: list[dict[str, Any]], run_dir: Path, spelt: Callable[[list[str]], str]) -> list[dict[str, Any]]:
    """With the names that a running agent knows; `spelt` makes one of labels."""
    try:
        endpoints, identities = ask(run_dir, "/v1/endpoints"), ask(run_dir, "/v1/identities")
    except UnreachableError:
        return entries
    interfaces = {entry["id"]: entry["endpoint"] for entry in endpoints if entry["id"]}
    peers = {entry["identity"]: spelt(entry["labels"]) for entry in identities}
    for entry in entries:
        if "ifindex" in entry:
            entry["endpoint"] = interfaces.get(entry["ifindex"], "")
        if "identity" in entry:
            entry["peer"] = entry.get("peer") or peers.get(entry["identity"], "")
    return entries


def _cell(value: object) -> object:
    return "-" if value in (None, "", 0) else value


@app.command()
def doctor(
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
    probes: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Also send packets, through an agent in namespaces of its own.")
    ] = True,
    probe_name: Annotated[str, typer.Option("--probe-name", hidden=True)] = "doctor",
) -> None:
    """Whether this machine can run an agent.

    Looks at kernel features with the version that brings each, mounts, sysctls, marks, ports, Envoy, other networks;
    then sends real packets over every leg, between two namespaces that are made for it and vanish again. Exits 1 when
    something is missing or does not work."""
    from ..machine.check import State
    from ..machine.doctor import examine
    from ..machine.probe import probe
    from ..settings import Settings

    checks = examine(Settings(policies=Path(), workloads=Path(), run_dir=run_dir.absolute()))
    if probes:
        checks += probe(probe_name)
    failed = any(check.state is State.FAIL for check in checks)
    if output is Format.TABLE:
        table(
            ("", "GROUP", "WHAT", "FOUND", "WHAT TO DO"),
            ((check.state, check.group, check.name, check.found, check.advice or "-") for check in checks),
        )
    else:
        data({"ok": not failed, "checks": [check.to_json() for check in checks]}, output)
    if failed:
        raise typer.Exit(1)
