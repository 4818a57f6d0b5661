"""The Kafka filter in a real Envoy under hostile clients and a hostile server that keeps every byte.

    python -m lockgate.tests.e2e.kafka_storm TESTS CONNECTIONS SEED

TESTS is the module's test program, which makes the streams and judges what arrived (envoy/module/kafka/storm.rs).
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from lockgate.envoy.config.identity_filter import identity_filter
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import NAME, find_module
from lockgate.redirect.plan import Owner
from lockgate.tests.e2e.kafka_frames import framed
from lockgate.tests.e2e.pinned_ipcache import PinnedIpcache, pinned_ipcache

SOURCE, SERVER = "127.0.0.21", "127.0.0.1"
PATIENCE = 30.0
_OWN = 0x4C470001  # the correlation id of the filter's own questions
_TOPICS = (b"orders", b"secret", b"bills", b"x")
_NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
_LINGER = 0.05  # seconds that a client waits for more answers


@dataclass
class Broker:
    """Answers requests as well or badly as chance has it, or not at all. `streams` are what came, by connection."""

    seed: int
    silent: bool = False
    streams: list[bytearray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server((SERVER, 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No new connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self.streams.append(stream := bytearray())
                threading.Thread(target=self._serve, args=(line, stream, len(self.streams)), daemon=True).start()

    def _serve(self, line: socket.socket, stream: bytearray, number: int) -> None:
        choose, seen = random.Random(self.seed * 1_000_003 + number), 0
        with line, suppress(OSError):
            while data := line.recv(65536):
                stream += data
                while not self.silent and len(stream) - seen >= 12:
                    (length,) = struct.unpack_from(">i", stream, seen)
                    if length < 0 or len(stream) < seen + 4 + length:
                        break
                    request = bytes(stream[seen + 4 : seen + 4 + length])
                    seen += 4 + length
                    line.sendall(_answer(request, choose))


def _answer(request: bytes, choose: random.Random) -> bytes:
    key, _, correlation = struct.unpack_from(">hhi", request)
    if correlation == _OWN and choose.random() < 0.9:
        return framed(_names(request))
    body = choose.randbytes(choose.randrange(80))
    if key == 18 and choose.random() < 0.8:
        body = struct.pack(">hihhhi", 0, 1, 0, 0, 20, 0)
    if choose.random() < 0.1:
        correlation ^= 1 << choose.randrange(32)
    answer = framed(struct.pack(">I", correlation & 0xFFFFFFFF) + body)
    if choose.random() < 0.1:
        return choose.randbytes(choose.randrange(1, 40))
    return answer if choose.random() < 0.9 else b""


def _names(request: bytes) -> bytes:
    """The response to the filter's question for names: a Metadata request that lists topics by id (rewrite.rs)."""
    at, ids = 11, []  # behind key, version, correlation id, no client, no tags
    count, shift = 0, 0
    while True:
        byte = request[at]
        count |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    for _ in range(count - 1):
        ids.append(request[at : at + 16])
        at += 18
    topics = [
        struct.pack(">hB", 0, len(name) + 1) + name + each + b"\0\x01" + struct.pack(">i", 0) + b"\0"
        for each in ids
        for name in (_TOPICS[each[0] % len(_TOPICS)],)
    ]
    head = struct.pack(">iB", _OWN, 0) + struct.pack(">i", 0) + b"\x01" + b"\0" + struct.pack(">i", 0)
    return head + bytes([len(topics) + 1]) + b"".join(topics) + b"\0"


class Stormed:
    """An Envoy with nothing but the filter's listener, in front of a broker."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, admin: Path) -> None:
        self._process, self._log, self._admin = process, log, admin
        self.port = port

    @property
    def alive(self) -> bool:
        """Whether it runs, and no filter has panicked."""
        return self._process.poll() is None and "panicked" not in self._log.read_text(errors="replace")

    @property
    def memory(self) -> int:
        """Bytes that it has resident."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def allocated(self) -> int:
        """Bytes that it uses, without what its allocator keeps of what was given back: as much again, when large blocks
        of many sizes come and go."""
        with socket.socket(socket.AF_UNIX) as admin, admin.makefile("rb") as answer:
            admin.settimeout(PATIENCE)
            admin.connect(str(self._admin))
            admin.sendall(b"GET /memory HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
            text = answer.read().decode()
        return int(json.loads(text[text.index("{") : text.rindex("}") + 1])["allocated"])

    def dial(self) -> socket.socket:
        """A connection from the client whom the policy knows."""
        return socket.create_connection((SERVER, self.port), timeout=PATIENCE, source_address=(SOURCE, 0))


@contextmanager
def stormed(folder: Path, policy: str, broker: Broker) -> Iterator[Stormed]:
    """Envoy until the block ends."""
    owners = {ip_network(SOURCE): Owner(2), ip_network(SERVER): Owner(7, 7)}
    with pinned_ipcache({}) as pinned:
        pinned.set(owners)
        with socket.create_server((SERVER, 0)) as free:
            port = free.getsockname()[1]
        file, log = folder / "envoy.json", folder / "envoy.log"
        made = _bootstrap(pinned, policy, port, broker.port)
        file.write_text(json.dumps(made | {"admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}}}))
        binary = find_binary()
        command: list[str | Path] = [
            binary.path,
            "-c",
            file,
            "--disable-hot-restart",
            "--concurrency",
            "2",
            "-l",
            "warning",
        ]
        with log.open("wb") as output:
            environment = {**os.environ, **find_module(binary).environment}
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            running = Stormed(process, port, log, folder / "admin.sock")
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    running.dial().close()
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"Envoy does not listen: {log.read_text()[-2000:]}") from None
                    time.sleep(0.02)
            yield running
        finally:
            process.kill()
            process.wait()


def _bootstrap(pinned: PinnedIpcache, policy: str, port: int, upstream: int) -> dict[str, Any]:
    judge = {
        "@type": f"{_NETWORK}.dynamic_modules.v3.DynamicModuleNetworkFilter",
        "dynamic_module_config": {"name": NAME},
        "filter_name": "lockgate.kafka",
        "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": policy},
    }
    proxy: dict[str, Any] = {"@type": f"{_NETWORK}.tcp_proxy.v3.TcpProxy", "stat_prefix": "storm", "cluster": "broker"}
    proxy |= {"upstream_connect_mode": "ON_DOWNSTREAM_DATA", "max_early_data_bytes": 1 << 20}

    def at(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": SERVER, "port_value": number}}

    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "storm",
                    "address": at(port),
                    "listener_filters": [identity_filter(pinned.envoy).to_dict()],
                    "filter_chains": [
                        {"filters": [{"name": "judge", "typed_config": judge}, {"name": "tcp", "typed_config": proxy}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "broker",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "broker",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(upstream)}}]}],
                    },
                }
            ],
        }
    }


def storm(envoy: Stormed, streams: Sequence[bytes], seed: int, threads: int = 16) -> None:
    """Send each stream on a connection of its own, cut at random."""

    def send(numbered: tuple[int, bytes]) -> None:
        number, stream = numbered
        choose = random.Random(seed * 1_000_003 + number)
        with envoy.dial() as line, suppress(OSError):
            at = 0
            while at < len(stream):
                size = choose.choice((1, 7, 100, 700, 4096, 70_000))
                line.sendall(stream[at : at + size])
                at += size
            line.settimeout(_LINGER)
            while line.recv(65536):
                pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(send, enumerate(streams)))


def each_at_once(envoy: Stormed, count: int, act: Callable[[socket.socket], None]) -> None:
    """`act` on so many connections, all of them open until the last has done."""
    lines = [envoy.dial() for _ in range(count)]

    def one(line: socket.socket) -> None:
        with suppress(OSError):
            act(line)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, lines))
    for line in lines:
        line.close()


def run_tests(tests: Path, folder: Path, connections: int, seed: int) -> str:
    """The module's part: first makes `streams` and `policy` in the folder, later judges `arrived`."""
    settings = {"LOCKGATE_STORM": str(folder), "LOCKGATE_FUZZ_RUNS": str(connections), "LOCKGATE_FUZZ_SEED": str(seed)}
    command: list[str | Path] = [tests, "kafka::storm", "--nocapture"]
    ended = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise AssertionError(f"{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return next((line for line in ended.stdout.splitlines() if "arrived" in line), "")


def parted(data: bytes) -> list[bytes]:
    """The streams of a file."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def whole_storm(tests: Path, folder: Path, connections: int, seed: int) -> str:
    """All of it: what arrived and was judged, as a sentence. Raises AssertionError."""
    run_tests(tests, folder, connections, seed)
    broker = Broker(seed)
    with stormed(folder, (folder / "policy").read_text(), broker) as envoy:
        before = envoy.memory
        storm(envoy, parted((folder / "streams").read_bytes()), seed)
        grown = envoy.memory - before
        assert envoy.alive, "Envoy died or a filter panicked"
    broker.close()
    arrived = [bytes(stream) for stream in broker.streams]
    (folder / "arrived").write_bytes(b"".join(struct.pack(">I", len(each)) + each for each in arrived))
    told = run_tests(tests, folder, connections, seed)
    return f"{connections} connections: {told}; Envoy has grown by {grown >> 20} MiB"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(whole_storm(Path(sys.argv[1]), Path(made), int(sys.argv[2]), int(sys.argv[3])))
