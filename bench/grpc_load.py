"""The load of gRPC: h2load with unary calls in a closed loop over a few connections."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import quantiles

from lockgate.agent.playground import Pod

from .errors import LoadError
from .load import Load, printed

_MESSAGE = b"\0" + (12).to_bytes(4, "big") + b"hello, world"  # one message, not compressed
_STREAMS = 4  # calls at a time on one connection
_DONE = re.compile(
    r"finished in (?P<number>[\d.]+)(?P<unit>us|ms|s), .*"
    r"requests: \d+ total, \d+ started, (?P<done>\d+) done, (?P<succeeded>\d+) succeeded, "
    r"(?P<failed>\d+) failed, (?P<errored>\d+) errored",
    re.DOTALL,
)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def run(client: Pod, url: str, calls: int, seconds: int, threads: int) -> Load:
    """Unary calls of `url` from inside the pod `client`, `calls` at a time, for whole `seconds`.

    Raises:
        LoadError: h2load did not run, or any call did not end in 200.
    """
    streams = min(calls, _STREAMS)
    connections = calls // streams
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "message"), Path(folder, "log")
        body.write_bytes(_MESSAGE)
        command: list[str | Path] = ["h2load", "-D", str(seconds), "-c", str(connections), "-m", str(streams)]
        command += ["-t", str(min(threads, connections)), "-d", body, f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", url]
        output = printed("h2load", client, command, url, seconds)
        return parse(output, log.read_text().splitlines(), url)


def parse(output: str, log: Iterable[str], url: str) -> Load:
    """h2load's summary, and its log of each request: start, status and microseconds with tabs between.

    Raises:
        LoadError: there is no summary, or it counts failures.
    """
    if (found := _DONE.search(output)) is None:
        raise LoadError(f"h2load printed no result for {url}: {output.strip()[-300:]}")
    failed = int(found["failed"]) + int(found["errored"])
    times = [float(fields[2]) for fields in (line.split("\t") for line in log) if fields[1] == "200"]
    if failed or found["done"] != found["succeeded"]:
        raise LoadError(f"{failed} of {found['done']} calls of {url} failed under load")
    if len(times) < 2:
        raise LoadError(f"no call of {url} was answered within the time")
    cuts = quantiles(times, n=1000, method="inclusive")
    return Load(int(found["done"]), float(found["number"]) * _SECONDS[found["unit"]], cuts[499], cuts[989], cuts[998])
