"""`lockgate demo`: namespaces as pods, the article's policies, real requests and their verdicts."""

from __future__ import annotations

import asyncio
import re
import signal
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from .output import Format, FormatOption, data, table

if TYPE_CHECKING:
    from ..demo.run import Row
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
) -> None:
    """Enforce the two example policies on real pods and show each request beside its explanation.

    Exits 1 when a request and its explanation disagree.
    """
    from ..demo.run import demo_world, demonstration, to_json
    from ..demo.site import Site
    from ..host import require_host

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
    with demonstration(site, _progress, keep) as running:
        world = asyncio.run(demo_world(running))
        rows = []
        for row in running.ask_all(world):
            _progress(f"{row.client} -> {row.server}: {row.request}: {row.happened}")
            rows.append(row)
        if keep:
            _invite(site, running.pods["frontend"].netns, str(running.pods["api-server"].ipv4))
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


def _invite(site: Site, netns: str, address: str) -> None:
    again = "lockgate demo --clean" + ("" if site.name == "demo" else f" --name {site.name}")
    _progress("the node keeps running; try:")
    for line in (
        f"nsenter --net=/run/netns/{netns} curl -i http://{address}/api/v1/users",
        f"lockgate status --run-dir {site.directory}",
        f"edit {site.directory}/policies/api-access-control.yaml",
        again,
    ):
        _progress(f"  {line}")


def _progress(text: str) -> None:
    typer.echo(f"demo: {text}", err=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
