"""What the identity filter costs Envoy for each connection.

Started by the script `bench/identity`. One Envoy has two listeners on loopback, one with the filter and one without;
both have the listener filter that the node's listeners have anyhow, and close every connection at once. They are asked
in turns, and each pair of turns gives one difference of the CPU time that Envoy's threads were charged for a connection
(/proc/PID/task/*/schedstat, nanoseconds). The map is the data path's own. Exit status: 0 measured (whether or not the
aim is reached), 1 it could not be measured, 130 interrupted.
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
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from statistics import median, quantiles

from lockgate.envoy.binary import find_binary
from lockgate.envoy.identity_filter import Ipcache, identity_filter
from lockgate.envoy.module_file import find_module
from lockgate.redirect import Datapath
from lockgate.redirect.plan import DatapathPlan, Owner

from .errors import BenchError, StartError
from .machine import machine
from .table import table
from .workplace import interruptible, positive, workplace

AIM = 2.0  # microseconds of CPU
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_PORTS = {"without": 9001, "with": 9002}
_ORIGINAL_DST = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
_DIRECT_RESPONSE = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config"


@dataclass(frozen=True, slots=True)
class Measured:
    """Microseconds of Envoy's CPU for a connection; each of the sequences has a value for each round."""

    addresses: int
    connections: int
    without: Sequence[float]
    with_filter: Sequence[float]

    @property
    def differences(self) -> list[float]:
        """Of each round."""
        return [after - before for before, after in zip(self.without, self.with_filter, strict=True)]

    def table(self) -> str:
        """Medians, and the middle half of the rounds."""
        rows = [
            ("without the filter", *_spread(self.without)),
            ("with the filter", *_spread(self.with_filter)),
            ("difference, by round", *_spread(self.differences)),
        ]
        verdict = "reached" if median(self.differences) < AIM else "missed"
        return (
            f"{len(self.without)} rounds of {self.connections} connections each way, {self.addresses} addresses in the "
            f"ipcache\n\n{table(('CPU of Envoy for a connection', 'median', 'middle half'), rows)}\n\n"
            f"Aim: less than {AIM:g} us, {verdict}."
        )


def _spread(values: Sequence[float]) -> tuple[str, str]:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.2f} us", f"{low:.2f} to {high:.2f} us"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench/identity", description="what the identity filter costs a connection")
    parser.add_argument("--rounds", type=positive, default=60)
    parser.add_argument("--connections", type=positive, default=500, help="in each turn (default %(default)s)")
    parser.add_argument("--addresses", type=positive, default=100_000, help="in the ipcache (default %(default)s)")
    options = parser.parse_args(argv)
    interruptible()
    try:
        print(measure(options.rounds, options.connections, options.addresses).table())
        print(f"\n{machine(find_binary())}")
    except BenchError as error:
        print(f"identity: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("identity: interrupted; everything it made is removed", file=sys.stderr)
        return 130
    return 0


def measure(rounds: int, connections: int, addresses: int) -> Measured:
    """In a network namespace of its own, which this process then lives in."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        raise StartError("cannot make a network namespace; run it as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    spent: dict[str, list[float]] = {name: [] for name in _PORTS}
    with workplace() as folder, _map(addresses) as ipcache, _envoy(folder, ipcache) as pid:
        for name in _PORTS:
            _turn(pid, name, connections, 0)  # warm
        for number in range(1, rounds + 1):
            # Now the one first, now the other: a machine that gets slower favours neither.
            for name in list(_PORTS) if number % 2 else reversed(_PORTS):
                spent[name].append(_turn(pid, name, connections, number))
    return Measured(addresses, connections, spent["without"], spent["with"])


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
    datapath = Datapath.open(Path(f"/sys/fs/bpf/lockgate-bench-{os.getpid()}"))
    try:
        first = IPv4Address("10.0.0.1")
        owners = {ip_network(first + number): Owner(70_000 + number % 100) for number in range(addresses - 1)}
        datapath.apply(DatapathPlan(ipcache={**owners, ip_network("127.0.0.0/8"): Owner(70_000, 7)}))
        yield Ipcache(*datapath.ipcache)
    finally:
        datapath.remove()


@contextmanager
def _envoy(folder: Path, ipcache: Ipcache) -> Iterator[int]:
    """Its pid."""
    first = {"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": _ORIGINAL_DST}}
    close = {"name": "close", "typed_config": {"@type": _DIRECT_RESPONSE}}
    listeners = [
        {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "listener_filters": [first, identity_filter(ipcache).to_dict()] if name == "with" else [first],
            "filter_chains": [{"filters": [close]}],
        }
        for name, port in _PORTS.items()
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


if __name__ == "__main__":
    sys.exit(main())
