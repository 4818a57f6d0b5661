"""`lockgate flows`: who was refused what, and by which policy."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..client import ask
from ..errors import UnreachableError
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption

if TYPE_CHECKING:
    from ..flow_event import Directory, Drops, FlowEvent, FlowFilter

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
    """Requests that Envoy refused or noted, newest last; with -f also the packets that the kernel drops, by reason.

    A request that was allowed is in no log. `-o json` prints one object a line. Needs no agent, but without one
    addresses have no names.
    """
    from ...envoy.access_log import FILE_NAME
    from ..flow_event import FlowFilter, FlowVerdict
    from ..log_tail import LogTail

    if verdict and verdict not in list(FlowVerdict):
        raise typer.BadParameter(f"--verdict {verdict}: write {', '.join(FlowVerdict)}")
    try:
        re.compile(http_path)
    except re.error as error:
        raise typer.BadParameter(f"--http-path '{http_path}' is not a regular expression: {error}") from None
    wanted = FlowFilter(FlowVerdict(verdict) if verdict else None, source, destination, http_path, http_method, policy)
    if not run_dir.is_dir():
        raise UnreachableError(f"{run_dir} does not exist: start an agent with 'lockgate agent run', or give --run-dir")
    tail = LogTail(run_dir / FILE_NAME)
    seen = _Node(run_dir)
    events = [event for event in _events(tail.last(10**9), seen.directory()) if wanted.wants(event)]
    for event in events[len(events) - last if last < len(events) else 0 :] if last else ():
        _print(event, output)
    seen.drops()
    with suppress(KeyboardInterrupt):
        while follow:
            time.sleep(_POLL_SECONDS)
            lines = tail.more()
            for event in _events(lines, seen.directory() if lines else None):
                if wanted.wants(event):
                    _print(event, output)
            if _wants_drops(wanted):
                for drops in seen.drops():
                    _print(drops, output)
    tail.close()


class _Node:
    """What the agent tells; nothing while it does not answer."""

    def __init__(self, run_dir: Path) -> None:
        from ..flow_event import Directory

        self._run_dir = run_dir
        self._directory = Directory()
        self._asked = float("-inf")
        self._counted = float("-inf")
        self._counters: list[dict[str, Any]] | None = None

    def directory(self) -> Directory:
        """Who is who, as of a second ago at most."""
        from ..flow_event import Directory

        if time.monotonic() - self._asked > _AGENT_SECONDS:
            self._asked = time.monotonic()
            with suppress(UnreachableError):
                self._directory = Directory(ask(self._run_dir, "/v1/endpoints"), ask(self._run_dir, "/v1/identities"))
        return self._directory

    def drops(self) -> list[Drops]:
        """What the kernel has dropped since the last call, once a second."""
        from ..flow_event import drops_between

        if time.monotonic() - self._counted < _AGENT_SECONDS:
            return []
        self._counted = time.monotonic()
        try:
            counters = ask(self._run_dir, "/v1/datapath")["counters"]
        except UnreachableError:
            return []
        before, self._counters = self._counters, counters
        return [] if before is None else drops_between(before, counters, datetime.now(UTC))


def _events(lines: Iterable[bytes], directory: Directory | None) -> Iterable[FlowEvent]:
    from ...envoy.access_log import parse
    from ..flow_event import flow_event

    for line in lines:
        if directory is not None:
            with suppress(ValueError):  # half a line, of a full disk
                yield flow_event(parse(line), directory)


def _wants_drops(wanted: FlowFilter) -> bool:
    """The counters know no ends and no requests."""
    from ..flow_event import FlowVerdict

    if wanted.verdict not in (None, FlowVerdict.DROPPED):
        return False
    return not (wanted.source or wanted.destination or wanted.path or wanted.method or wanted.policy)


def _print(event: FlowEvent | Drops, output: Format) -> None:
    if output is Format.TABLE:
        typer.echo(str(event))
    elif output is Format.JSON:
        typer.echo(json.dumps(event.to_json(), ensure_ascii=False))
    else:
        import yaml

        typer.echo("---\n" + yaml.safe_dump(event.to_json(), sort_keys=False, allow_unicode=True).rstrip("\n"))
