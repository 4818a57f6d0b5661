"""`lockgate demo`: namespaces as pods, the article's policies, real requests and their verdicts."""

from __future__ import annotations

import re
import signal
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..demo.part import PartName
from .output import Format, FormatOption, data, table

if TYPE_CHECKING:
    from ..demo.run import Demo, Row
    from ..demo.site import Site


def demo(
    output: FormatOption = Format.TABLE,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the node running, to look at it and to try requests.")
    ] = False,
    remove: Annotated[bool, typer.Option("--clean", help="Only remove what --keep left.")] = False,
    name: Annotated[
        str, typer.Option(help="Of its namespaces (lg-NAME) and its folder (/run/lockgate-NAME); a-z, 0-9 and _.")
    ] = "demo",
    only: Annotated[
        list[PartName] | None, typer.Option("--only", help="This part alone; may be repeated. Otherwise all.")
    ] = None,
) -> None:
    """Enforce example policies on pods of its own, and ask them.

    Shows each request beside its explanation. Exits 1 when the two disagree.
    """
    from ..demo.run import demo_world, demonstration, to_json
    from ..demo.scenario import Scenario
    from ..demo.site import Site
    from ..machine.host import require_host

    if not re.fullmatch("[a-z0-9_]{1,32}", name):
        raise typer.BadParameter(f"--name {name}: write up to 32 of a-z, 0-9 and _")
    require_host()
    site = Site(name)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if remove:
        with site.taken():
            site.clean(_progress)
        return
    with demonstration(site, _progress, keep, Scenario.of(only or ())) as running:
        world = demo_world(running)
        rows = []
        for row in running.ask_all(world):
            _progress(f"{row.client} -> {row.server}: {row.request}: {row.happened}")
            rows.append(row)
        if keep:
            _invite(site, running)
    if output is Format.TABLE:
        _print(rows)
    else:
        data(to_json(rows), output)
    if not all(row.agrees for row in rows):
        raise typer.Exit(1)


def _print(rows: list[Row]) -> None:
    table(
        ("FROM", "TO", "IP", "REQUEST", "HAPPENED", "SERVER SAW", "EXPLAINED", "DECIDED BY", "WHY"),
        (
            (
                row.client,
                row.server,
                f"v{row.family}",
                row.request,
                row.happened,
                row.seen_from or "nothing",
                row.verdict if row.agrees else f"{row.verdict}: DISAGREES",
                row.decided_by,
                row.reason,
            )
            for row in rows
        ),
    )
    wrong = sum(not row.agrees for row in rows)
    typer.echo(f"{len(rows)} requests, {wrong} disagreements between the wire and the explanation")


def _invite(site: Site, running: Demo) -> None:
    again = "lockgate demo --clean" + ("" if site.name == "demo" else f" --name {site.name}")
    pods = running.pods
    curl, edit = [], running.scenario.policies[-1]
    if {"frontend", "api-server"} <= pods.keys():
        edit = "api-access-control.yaml"
        address = pods["api-server"].ipv4
        curl = [f"nsenter --net=/run/netns/{pods['frontend'].netns} curl -i http://{address}/api/v1/users"]
    _progress("the node keeps running; try:")
    for line in (
        *curl,
        f"lockgate status --run-dir {site.directory}",
        f"edit {running.policies / edit}",
        again,
    ):
        _progress(f"  {line}")


def _progress(text: str) -> None:
    typer.echo(f"demo: {text}", err=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
