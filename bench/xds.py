"""The xDS server: one change until a real Envoy has ACKed and enforces it, and a thousand clients at once.

Started by the script `bench/xds`, which installs what is missing. Exit status: 0 measured (whether or not an aim is
reached), 1 it could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lockgate.envoy.running.binary import EnvoyBinary, find_binary

from . import command
from .errors import StartError
from .machine import machine
from .sovereign import ENVIRONMENT, Sovereign
from .workplace import RESULTS, positive, positives, workplace
from .xds_envoy import WAIT, await_origin, clusters_envoy, origin
from .xds_report import IDLE, Change, Crowd, Polled, XdsReport

_POLLED_CHANGES = 10
_QUIET = {**os.environ, "GRPC_VERBOSITY": "NONE"}  # it tells of every connection that ends


class Server:
    """The server's process (see xds_server)."""

    def __init__(self, socket: Path) -> None:
        self._process = _python("lockgate.bench.xds_server", str(socket))
        self.answer()

    def order(self, resources: int, content: str, wait: float, port: int = 9) -> None:
        """Publish; `answer` tells what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{resources} {content} {wait} {port}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The report of the last order. Raises StartError."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StartError("the xDS server ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        _end(self._process)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("xds", lambda: measure(options), options.output)


def measure(options: argparse.Namespace) -> XdsReport:
    """Everything, one after the other. Raises BenchError."""
    envoy = find_binary()
    with workplace() as directory:
        changes = [_change(directory, envoy, size, options.changes) for size in options.sizes]
        polled = _polled(directory, envoy, options.sizes) if options.sovereign else []
        crowd = _crowd(directory, options)
        return XdsReport(machine(envoy), changes, crowd, polled, _version() if polled else "")


def _change(directory: Path, envoy: EnvoyBinary, size: int, count: int) -> Change:
    _say(f"{size} resources")
    acked, enforced = [], []
    with ExitStack() as stack:
        ports = [stack.enter_context(origin(name)) for name in ("a", "b")]
        socket = directory / "xds.sock"
        server = Server(socket)
        stack.callback(server.close)
        server.order(size, "0", 0, ports[0])
        server.answer()
        listen = stack.enter_context(clusters_envoy(directory, envoy, socket))
        connection = http.client.HTTPConnection("127.0.0.1", listen, timeout=10)
        stack.callback(connection.close)
        await_origin(connection, "a")
        server.order(size, "0", WAIT, ports[0])  # until Envoy has ACKed all that it begins with
        server.answer()
        for number in range(1, count + 1):
            server.order(size, str(number), WAIT, ports[number % 2])
            seen = await_origin(connection, "ab"[number % 2])
            report = server.answer()
            if report["outcome"] != "acked":
                raise StartError(f"Envoy has not taken a change: {report['outcome']}")
            acked.append(report["seconds"])
            enforced.append(seen - report["published_at"])
            time.sleep(0.05)
    return Change(size, tuple(acked), tuple(enforced))


def _crowd(directory: Path, options: argparse.Namespace) -> Crowd:
    _say(f"{options.clients} clients of {options.resources} resources")
    seconds, cpu = [], []
    socket = directory / "xds.sock"
    server = Server(socket)
    try:
        server.order(options.resources, "all0", 0)
        alone = server.answer()["rss"]
        clients = _python("lockgate.bench.xds_clients", str(socket), str(options.clients))
        try:
            assert clients.stdout is not None
            if clients.stdout.readline().strip() != "ready":
                raise StartError("the clients ended")
            for number in range(1, options.rounds + 1):
                server.order(options.resources, f"all{number}", WAIT)
                report = server.answer()
                if (report["outcome"], report["clients"]) != ("acked", options.clients):
                    raise StartError(f"not every client has taken a change: {report}")
                seconds.append(report["seconds"])
                cpu.append(report["cpu"])
        finally:
            _end(clients)
    finally:
        server.close()
    return Crowd(options.clients, options.resources, tuple(seconds), tuple(cpu), report["rss"], alone)


def _polled(directory: Path, envoy: EnvoyBinary, sizes: Sequence[int]) -> list[Polled]:
    """The same by the other control plane."""
    found = []
    with ExitStack() as stack:
        ports = [stack.enter_context(origin(name)) for name in ("a", "b")]
        other = Sovereign(directory)
        stack.callback(other.close)
        for size in sizes:
            _say(f"{size} resources by sovereign")
            other.publish(size, ports[0])
            with ExitStack() as inner:
                listen = inner.enter_context(clusters_envoy(directory, envoy, other.port))
                connection = http.client.HTTPConnection("127.0.0.1", listen, timeout=10)
                inner.callback(connection.close)
                await_origin(connection, "a")
                enforced = []
                for number in range(1, _POLLED_CHANGES + 1):
                    before = other.publish(size, ports[number % 2])
                    enforced.append(await_origin(connection, "ab"[number % 2]) - before)
                    time.sleep(0.05 + number * 0.013)  # at no fixed beat with the polls
                spent, began = other.cpu(), time.monotonic()
                time.sleep(IDLE)
                idle = (other.cpu() - spent) / (time.monotonic() - began)
            found.append(Polled(size, tuple(enforced), idle))
    return found


def _version() -> str:
    listed = sorted(each.name for each in ENVIRONMENT.glob("lib/python*/site-packages/sovereign-*.dist-info"))
    return listed[-1].removeprefix("sovereign-").removesuffix(".dist-info") if listed else "unknown"


def _python(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_QUIET
    )


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _say(text: str) -> None:
    print(f"xds: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/xds", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=positives, default=(1, 1000, 10000), help="numbers of resources (1,1000,10000)")
    parser.add_argument("--changes", type=positive, default=100, help="changes at each of them (100)")
    parser.add_argument("--clients", type=positive, default=1000, help="clients at once (1000)")
    parser.add_argument("--resources", type=positive, default=100, help="resources of each client (100)")
    parser.add_argument("--rounds", type=positive, default=10, help="changes of all of them (10)")
    parser.add_argument(
        "--no-sovereign", dest="sovereign", action="store_false", help="without the other control plane beside it"
    )
    parser.add_argument("--quick", action="store_true", help="a short run that shows that all works; writes no result")
    parser.add_argument("--output", type=Path, help="folder for xds.md and .json (bench/results; with --quick none)")
    options = parser.parse_args(argv)
    if options.quick:
        options.changes, options.rounds = 10, 3
    elif options.output is None:
        options.output = RESULTS
    return options


if __name__ == "__main__":
    sys.exit(main())
