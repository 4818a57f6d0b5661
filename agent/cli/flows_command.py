"""`lockgate flows`: who was refused what, and by which policy."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from ..errors import InputError, UnreachableError
from ..inspection.client import ask
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, printable, reader_left

if TYPE_CHECKING:
    from ...redirect.drop_log import DroppedPacket
    from ..inspection.drop_event import Blame, DropEvent, Drops
    from ..inspection.flow_end import Directory
    from ..inspection.flow_event import FlowEvent
    from ..inspection.flow_filter import FlowFilter

_POLL_SECONDS = 0.2
_AGENT_SECONDS = 1.0  # between two looks at the kernel's counters and at who is who


def flows(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what happens, until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("-n", "--last", min=0, help="Of the past only so many requests.")] = 20,
    verdict: Annotated[str, typer.Option("--verdict", help="Only denied, logged or dropped.")] = "",
    source: Annotated[
        str, typer.Option("--from", help="namespace/name, name, an address, a prefix or reserved:world ...")
    ] = "",
    destination: Annotated[str, typer.Option("--to", help="Likewise, the other end.")] = "",
    http_path: Annotated[str, typer.Option("--http-path", help="A regular expression found in the path.")] = "",
    http_method: Annotated[str, typer.Option("--http-method", help="GET, POST ...")] = "",
    policy: Annotated[str, typer.Option("--policy", help="Only what this policy decided or was asked about.")] = "",
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """What Envoy refused or noted and what the kernel dropped.

    Requests and packets, newest last. A request that was allowed is in no log. The kernel keeps the last 128 drops of
    each CPU; what it could not keep is told with -f as a number. `-o json` prints one object a line. Without an agent
    addresses have no names.
    """
    from ...envoy.config.access_log import FILE_NAME
    from ..inspection.flow_end import FlowVerdict
    from ..inspection.flow_filter import FlowFilter
    from ..inspection.log_tail import LogTail

    if verdict and verdict not in list(FlowVerdict):
        raise typer.BadParameter(f"--verdict {verdict}: write {', '.join(FlowVerdict)}")
    try:
        re.compile(http_path)
    except re.error as error:
        raise typer.BadParameter(f"--http-path '{http_path}' is not a regular expression: {error}") from None
    wanted = FlowFilter(FlowVerdict(verdict) if verdict else None, source, destination, http_path, http_method, policy)
    if not run_dir.exists():
        raise UnreachableError(f"{run_dir} does not exist: start an agent with 'lockgate agent run', or give --run-dir")
    tail = LogTail(run_dir / FILE_NAME)
    seen = _Node(run_dir)
    if not seen.is_there and not (run_dir / FILE_NAME).exists():
        root = "" if os.geteuid() == 0 else " as root (sudo)"
        raise UnreachableError(
            f"nobody has logged anything in {run_dir}: look{root} where an agent is, by its --run-dir, or start one "
            "with 'lockgate agent run'"
        )
    past: list[FlowEvent | DropEvent] = [*_requests(tail.last(10**9), seen.directory()), *seen.drops()]
    past = sorted(filter(wanted.wants, past), key=lambda event: event.time)
    for event in past[max(0, len(past) - last) :]:
        _print(event, output)
    if not past:
        _tell_unknown(seen.directory(), source, destination)
    seen.untold()
    with suppress(KeyboardInterrupt):
        while follow and not reader_left(_POLL_SECONDS):
            lines = tail.more()
            new: list[FlowEvent | DropEvent] = list(_requests(lines, seen.directory())) if lines else []
            new += seen.drops()
            for event in sorted(filter(wanted.wants, new), key=lambda event: event.time):
                _print(event, output)
            if _wants_all_drops(wanted):
                for more in seen.untold():
                    _print(more, output)
    seen.close()
    tail.close()


def _tell_unknown(directory: Directory, *ends: str) -> None:
    for end in ends:
        if end and not directory.knows(end):
            typer.echo(
                f"nobody here is called '{end}': write namespace/name or name ('lockgate endpoint list' shows them), "
                "an address, a prefix, or a label such as reserved:world",
                err=True,
            )


class _Node:
    """What the agent and the kernel's maps tell; nothing where they are not there."""

    def __init__(self, run_dir: Path) -> None:
        from ...redirect.drop_log import DropLog
        from ...redirect.errors import RedirectError
        from ..inspection.flow_end import Directory
        from ..settings import Settings

        self._run_dir = run_dir
        self._directory = Directory()
        self._asked = self._counted = self._explained = float("-inf")
        self._blames: dict[str, Blame] = {}
        self._first: list[dict[str, Any]] | None = None
        self._last: list[dict[str, Any]] = []
        self._told: Counter[tuple[str, str]] = Counter()
        self._after = 0
        self._drops: DropLog | None = None
        with suppress(RedirectError, OSError):
            self._drops = DropLog(Settings(Path(), Path(), run_dir=run_dir.absolute()).pin_dir)

    @property
    def is_there(self) -> bool:
        """False when no data path is pinned for it."""
        return self._drops is not None

    def directory(self) -> Directory:
        """Who is who, as of a second ago at most."""
        from ..inspection.flow_end import Directory

        if time.monotonic() - self._asked > _AGENT_SECONDS:
            self._asked = time.monotonic()
            with suppress(UnreachableError):
                self._directory = Directory(ask(self._run_dir, "/v1/endpoints"), ask(self._run_dir, "/v1/identities"))
        return self._directory

    def drops(self) -> list[DropEvent]:
        """The packets that were dropped since the last call, as far as the kernel kept them."""
        from ..inspection.drop_event import drop_event

        packets = self._drops.read(self._after) if self._drops is not None else []
        if not packets:
            return []
        self._after = packets[-1].at
        booted = datetime.now(UTC) - timedelta(microseconds=time.monotonic_ns() // 1000)
        events = [drop_event(packet, booted, self.directory(), self._blame(packet)) for packet in packets]
        self._told.update((event.direction, event.reason) for event in events)
        return events

    def _blame(self, packet: DroppedPacket) -> Blame:
        """What the agent's policies say of it; the same connection is asked about once a second."""
        from ..inspection.drop_event import NOBODY, asked_as, asks_policies, blame, ends, protocol_of

        if not asks_policies(packet):
            return NOBODY
        if time.monotonic() - self._explained > _AGENT_SECONDS:
            self._explained = time.monotonic()
            self._blames.clear()
        between = dict(zip(("from", "to"), map(asked_as, ends(packet, self.directory())), strict=True))
        question = urlencode({**between, "port": packet.destination_port, "protocol": protocol_of(packet)})
        if question not in self._blames:
            self._blames[question] = NOBODY
            with suppress(UnreachableError, InputError):
                self._blames[question] = blame(ask(self._run_dir, f"/v1/explain?{question}"))
        return self._blames[question]

    def untold(self) -> list[Drops]:
        """How many more were dropped than `drops` has told, by reason, once a second. The first call begins counting.

        What is compared is a second old: by then `drops` has told what it can.
        """
        from ..inspection.drop_event import drops_between

        if time.monotonic() - self._counted < _AGENT_SECONDS:
            return []
        self._counted = time.monotonic()
        try:
            now = ask(self._run_dir, "/v1/datapath")["counters"]
        except UnreachableError:
            return []
        if self._first is None:
            self._first = self._last = now
            self._told.clear()
        found = []
        for each in drops_between(self._first, self._last, datetime.now(UTC)):
            more = each.packets - self._told[each.direction, each.reason]
            if more > 0:
                self._told[each.direction, each.reason] += more
                found.append(replace(each, packets=more))
        self._last = now
        return found

    def close(self) -> None:
        """Let go of the kernel's map."""
        if self._drops is not None:
            self._drops.close()


def _requests(lines: Iterable[bytes], directory: Directory) -> Iterable[FlowEvent]:
    from ...envoy.config.access_log import parse
    from ..inspection.flow_event import flow_event

    for line in lines:
        with suppress(ValueError):  # half a line, of a full disk
            yield flow_event(parse(line), directory)


def _wants_all_drops(wanted: FlowFilter) -> bool:
    """The counters know no ends and no requests."""
    from ..inspection.flow_end import FlowVerdict

    if wanted.verdict not in (None, FlowVerdict.DROPPED):
        return False
    return not (wanted.source or wanted.destination or wanted.path or wanted.method or wanted.policy)


def _print(event: FlowEvent | DropEvent | Drops, output: Format) -> None:
    if output is Format.TABLE:
        typer.echo(printable(str(event)))
    elif output is Format.JSON:
        typer.echo(json.dumps(event.to_json(), ensure_ascii=False))
    else:
        import yaml

        typer.echo("---\n" + yaml.safe_dump(event.to_json(), sort_keys=False, allow_unicode=True).rstrip("\n"))
