"""What the identity filter costs Envoy for each connection.

Started by the script `bench/identity`. An Envoy has three listeners on loopback, one with the filter and two with
Envoy's own `original_dst` in its place: a connection that was redirected needs one of the two. They are transparent as
the node's are, without which `original_dst` would take nothing for a connection's address. All close every connection
at once. They are asked in turns, and each round of turns gives differences of the CPU time that Envoy's
threads were charged for a connection (/proc/PID/task/*/schedstat, nanoseconds). Where an Envoy's memory happens to lie
makes more of a difference than the filter does, so there are many Envoys, one after the other. The map is the data
path's own. Exit status: 0 measured (whether or not the aim is reached), 1 it could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, ip_network
from pathlib import Path

from lockgate.envoy.config.identity_filter import Ipcache, identity_filter
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.opening import Opening
from lockgate.redirect.plan import DatapathPlan, Owner

from . import command
from .cpu import Stopwatch
from .errors import BenchError, StartError
from .identity_report import IdentityReport, OneEnvoy
from .machine import machine
from .options import Amount, Options
from .workplace import positive, workplace

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_PORTS = {"without": 9001, "with": 9002, "alike": 9003}
_WARM = 500  # connections
_ORIGINAL_DST = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
_DIRECT_RESPONSE = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    run = partial(measure, options.envoys, options.rounds, options.connections, options.addresses)
    return command.run("identity", run, options.output, IdentityReport.warning)


def measure(envoys: int, rounds: int, connections: int, addresses: int) -> IdentityReport:
    """In a network namespace of its own, which this process then lives in."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        raise StartError("cannot make a network namespace; run it as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    measured: list[OneEnvoy] = []
    with workplace() as folder, _map(addresses) as ipcache:
        watch = Stopwatch([Path("/proc/self/ns/net")])
        began, own = time.monotonic(), time.process_time()
        watch.start()
        for number in range(envoys):
            # Which listener is made first differs too.
            names = sorted(_PORTS, reverse=bool(number % 2))
            with _envoy(folder, ipcache, names) as pid:
                measured.append(_measure(pid, names, rounds, connections))
            print(f"identity: [{number + 1}/{envoys}] {measured[-1]}", file=sys.stderr, flush=True)
        # The load is this process, which the watch takes for a stranger.
        foreign = watch.stop().foreign - (time.process_time() - own)
        cores = max(0.0, foreign) / (time.monotonic() - began)
    return IdentityReport(machine(find_binary()), addresses, connections, rounds, measured, cores)


def _measure(pid: int, names: Sequence[str], rounds: int, connections: int) -> OneEnvoy:
    spent: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        _turn(pid, name, _WARM, 0)
    for number in range(1, rounds + 1):
        # Now the one first, now another: a machine that gets slower favours none.
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            spent[name].append(_turn(pid, name, connections, number))
    return OneEnvoy.of(spent["without"], spent["alike"], spent["with"])


def _turn(pid: int, name: str, connections: int, number: int) -> float:
    """Microseconds for one connection. Each turn has a source address of its own, and so all ports to itself."""
    source = str(IPv4Address("127.1.0.1") + number)
    before = _cpu(pid)
    for _ in range(connections):
        with socket.socket() as client:
            client.bind((source, 0))
            client.connect(("127.0.0.1", _PORTS[name]))
            if client.recv(1):
                raise BenchError(f"the listener {name} the filter answered with data")
    return (_cpu(pid) - before) / connections / 1000


def _cpu(pid: int) -> int:
    """Nanoseconds that all threads have run."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


@contextmanager
def _map(addresses: int) -> Iterator[Ipcache]:
    """The data path's ipcache with so many addresses, the loopback prefix among them."""
    datapath = Datapath.open(Opening(Path(f"/sys/fs/bpf/lockgate-bench-{os.getpid()}")))
    try:
        first = IPv4Address("10.0.0.1")
        owners = {ip_network(first + number): Owner(70_000 + number % 100) for number in range(addresses - 1)}
        datapath.apply(DatapathPlan(ipcache={**owners, ip_network("127.0.0.0/8"): Owner(70_000, 7)}))
        yield Ipcache(*datapath.ipcache)
    finally:
        datapath.remove()


@contextmanager
def _envoy(folder: Path, ipcache: Ipcache, names: Sequence[str]) -> Iterator[int]:
    """Its pid. The listeners are made in the order of `names`."""
    original = {"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": _ORIGINAL_DST}}
    close = {"name": "close", "typed_config": {"@type": _DIRECT_RESPONSE}}
    listeners = [
        {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": _PORTS[name]}},
            "transparent": True,
            "listener_filters": [identity_filter(ipcache).to_dict() if name == "with" else original],
            "filter_chains": [{"filters": [close]}],
        }
        for name in names
    ]
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    binary = find_binary()
    command = [str(binary.path), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    log = folder / "envoy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **find_module(binary).environment}
        )
    try:
        deadline = time.monotonic() + 30
        for port in _PORTS.values():
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StartError(f"Envoy does not listen: {log.read_text(errors='replace')[-500:]}")
                time.sleep(0.02)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    envoys = Amount("envoys", "one after the other", 24, 2)
    rounds = Amount("rounds", "rounds of each", 80, 10)
    connections = Amount("connections", "in each turn", 50, 50)
    options = Options("identity", __doc__, envoys, rounds, connections)
    options.parser.add_argument(
        "--addresses", type=positive, default=100_000, help="in the ipcache (default %(default)s)"
    )
    return options.parse(argv)


if __name__ == "__main__":
    sys.exit(main())
