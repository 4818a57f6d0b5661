"""The load: wrk with keep-alive connections in a closed loop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lockgate.agent.playground import Pod

from .errors import LoadError

_SCRIPT = Path(__file__).with_name("wrk.lua")
_PATIENCE = 30  # seconds over the time of the run


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Latencies are of whole requests, in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    p999: float


def run(
    client: Pod,
    url: str,
    connections: int,
    seconds: int,
    threads: int,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Load:
    """GETs of `url` from inside the pod `client` over `connections` keep-alive connections for whole `seconds`.

    Raises:
        LoadError: wrk did not run, or any request did not end in 2xx or 3xx.
    """
    threads = min(threads, connections)
    command: list[str | Path] = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s"]
    command += ["--timeout", "20s", "-s", _SCRIPT]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    return parse("wrk", printed("wrk", client, [*command, url], url, seconds), url)


def printed(program: str, client: Pod, command: Sequence[str | Path], url: str, seconds: int) -> str:
    """What the load generator `program` prints, which is to run so many `seconds` in the pod `client`.

    Raises:
        LoadError: it failed, or did not end.
    """
    process = client.popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as the parts of a mode, see mode.spawn
    )
    try:
        output, _ = process.communicate(timeout=seconds + _PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    if process.returncode != 0:
        raise LoadError(f"{program} ended with status {process.returncode} on {url}: {output.strip()[-300:]}")
    return str(output)


def parse(program: str, output: str, url: str) -> Load:
    """What `program` printed, whose last line is ours (see wrk.lua and paced.c).

    Raises:
        LoadError: the line is missing, or it counts failed requests.
    """
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise LoadError(f"{program} printed no result for {url}: {output.strip()[-300:]}") from None
    if found["failed"]:
        raise LoadError(f"{found['failed']} of {found['requests']} requests to {url} failed under load")
    if not found["requests"]:
        raise LoadError(f"no request to {url} was answered within the time")
    return Load(found["requests"], found["microseconds"] / 1e6, found["p50"], found["p99"], found["p999"])
