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
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from lockgate.envoy.binary import EnvoyBinary, find_binary

from .churn_report import percentile
from .errors import BenchError, StartError
from .machine import machine
from .table import table
from .workplace import RESULTS, interruptible, positive, positives, workplace

_WAIT = 60.0  # seconds after which a change that shows no effect ends the run
_ENFORCED_AIM = 0.010  # seconds
_CLIENTS_AIM, _MEMORY_AIM = 2.0, 400e6  # seconds, bytes
_CLUSTER = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_QUIET = {**os.environ, "GRPC_VERBOSITY": "NONE"}  # it tells of every connection that ends
_METHOD = """\
* One change: of N clusters that Envoy has by delta ADS, the one that a listener routes to gets another endpoint. ACKed:
  until the server has Envoy's ACK. Enforced: until the first answer of the new origin is in; requests follow each other
  on one connection. Both from the moment of `publish`; server, Envoy and the asking process share the machine.
* Clients: each is a delta stream on a connection of its own, all in one process, which shares the machine with the
  server. A change touches every resource of every client. CPU and RSS are the server's; RSS for each client is the
  growth from no client to all, with their resources.
* Not measured here: other control planes on the same resources.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """Single changes at one number of resources: seconds until ACKed and until enforced."""

    resources: int
    acked: tuple[float, ...]
    enforced: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Crowd:
    """Changes that touch all resources of all clients: seconds and server CPU seconds of each; bytes."""

    clients: int
    resources: int
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    rss: int
    rss_alone: int


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
    interruptible()
    try:
        envoy = find_binary()
        with workplace() as directory:
            changes = [_change(directory, envoy, size, options.changes) for size in options.sizes]
            crowd = _crowd(directory, options)
    except BenchError as error:
        print(f"xds: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("xds: interrupted; everything it made is removed", file=sys.stderr)
        return 130
    figures = _figures(changes, crowd)
    print(figures)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        head = f"# The xDS server\n\n`bench/xds`, {machine(envoy)}"
        (options.output / "xds.md").write_text(f"{head}\n\n{figures}\n\n## Method\n\n{_METHOD}")
        data = {
            "machine": asdict(machine(envoy)),
            "changes": [asdict(each) for each in changes],
            "crowd": asdict(crowd),
        }
        (options.output / "xds.json").write_text(json.dumps(data, indent=1) + "\n")
    return 0


def _change(directory: Path, envoy: EnvoyBinary, size: int, count: int) -> Change:
    _say(f"{size} resources")
    acked, enforced = [], []
    with ExitStack() as stack:
        ports = [stack.enter_context(_origin(name)) for name in ("a", "b")]
        socket = directory / "xds.sock"
        server = Server(socket)
        stack.callback(server.close)
        server.order(size, "0", 0, ports[0])
        server.answer()
        listen = stack.enter_context(_envoy(directory, envoy, socket))
        connection = http.client.HTTPConnection("127.0.0.1", listen, timeout=10)
        stack.callback(connection.close)
        _until(connection, "a")
        for number in range(1, count + 1):
            server.order(size, str(number), _WAIT, ports[number % 2])
            seen = _until(connection, "ab"[number % 2])
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
                server.order(options.resources, f"all{number}", _WAIT)
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


def _figures(changes: Sequence[Change], crowd: Crowd) -> str:
    rows = [
        [
            str(each.resources),
            *(_ms(median(each.acked)), _ms(percentile(each.acked, 99))),
            *(_ms(median(each.enforced)), _ms(percentile(each.enforced, 99))),
        ]
        for each in changes
    ]
    one = table(["resources", "ACKed, median", "p99", "enforced, median", "p99"], rows)
    each_client = (crowd.rss - crowd.rss_alone) / crowd.clients
    many = table(
        ["all ACKed, median", "worst", "CPU of the server", "RSS of the server", "RSS for each client"],
        [
            [
                f"{median(crowd.seconds):.2f} s",
                f"{max(crowd.seconds):.2f} s",
                f"{median(crowd.cpu):.2f} s",
                f"{crowd.rss / 1e6:.0f} MB",
                f"{each_client / 1e3:.0f} kB",
            ]
        ],
    )
    enforced = median(changes[-1].enforced)
    aims = [
        (f"1 change enforced < {_ms(_ENFORCED_AIM)} at {changes[-1].resources}", enforced < _ENFORCED_AIM),
        (f"all clients ACKed < {_CLIENTS_AIM:.0f} s", median(crowd.seconds) < _CLIENTS_AIM),
        (f"RSS < {_MEMORY_AIM / 1e6:.0f} MB", crowd.rss < _MEMORY_AIM),
    ]
    judged = table(["aim", ""], [[aim, "reached" if reached else "**not reached**"] for aim, reached in aims])
    title = f"## A change of all {crowd.resources} resources of {crowd.clients} clients"
    return f"## One change of one resource\n\n{one}\n\n{title}\n\n{many}\n\n## Aims\n\n{judged}"


def _until(connection: http.client.HTTPConnection, origin: str) -> float:
    """Ask until this origin answers; returns when it did, on the monotonic clock. Raises StartError."""
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        try:
            connection.request("GET", "/")
            answer = connection.getresponse().read()
        except (OSError, http.client.HTTPException):  # it is still starting
            connection.close()
            time.sleep(0.02)
            continue
        if answer == origin.encode():
            return time.monotonic()
    raise StartError(f"no answer of origin {origin} within {_WAIT:.0f} s")


@contextmanager
def _origin(name: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.wfile.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


@contextmanager
def _envoy(directory: Path, envoy: EnvoyBinary, xds: Path) -> Iterator[int]:
    """A running Envoy that routes everything to the cluster c0; yields its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_address[1]
    config = directory / "envoy.json"
    config.write_text(json.dumps(_bootstrap(xds, port)))
    options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
    command = [str(envoy.path), "-c", str(config), *options]
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _bootstrap(xds: Path, port: int) -> dict[str, Any]:
    types = "type.googleapis.com/"
    manager = {
        "@type": types + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "validate_clusters": False,
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c0"}}]}
            ],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": types + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    http2 = {"http2_protocol_options": {"max_inbound_window_update_frames_per_data_frame_sent": 100000}}
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(xds)}}}}
    return {
        "node": {"id": "bench", "cluster": "bench"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "listeners": [
                {
                    "name": "web",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": filters}],
                }
            ],
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        _CLUSTER: {"@type": types + _CLUSTER, "explicit_http_config": http2}
                    },
                    "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        },
    }


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


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _say(text: str) -> None:
    print(f"xds: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/xds", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=positives, default=(1, 1000, 10000), help="numbers of resources (1,1000,10000)")
    parser.add_argument("--changes", type=positive, default=100, help="changes at each of them (100)")
    parser.add_argument("--clients", type=positive, default=1000, help="clients at once (1000)")
    parser.add_argument("--resources", type=positive, default=100, help="resources of each client (100)")
    parser.add_argument("--rounds", type=positive, default=10, help="changes of all of them (10)")
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
