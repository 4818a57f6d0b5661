"""The Kafka filter's session without Envoy: builds kafka_probe.rs and speaks with it."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).parent / "kafka_probe.rs"


@dataclass(frozen=True, slots=True)
class Came:
    """What came of some bytes: what passes to the other side, what the client is answered, why the connection ends."""

    passed: bytes
    answer: bytes
    close: str
    denials: tuple[str, ...]


class Probe:
    """One session at a time."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def policy(self, text: str) -> None:
        """Puts a policy into force."""
        self._send(b"P", text.encode())

    def connect(self, source: int, destination: int, port: int) -> None:
        """A new connection between two identities in place of the former; the second is an endpoint of the node."""
        self._send(b"C", f"{source} {destination} {port}".encode())

    def client(self, data: bytes) -> Came:
        """Bytes from the client."""
        self._send(b"c", data)
        return self._came()

    def server(self, data: bytes) -> Came:
        """Bytes from the server."""
        self._send(b"s", data)
        return self._came()

    def close(self) -> None:
        """Ends the program; it must not have failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0

    def _send(self, letter: bytes, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(letter + struct.pack(">I", len(data)) + data)
        self._process.stdin.flush()

    def _came(self) -> Came:
        passed, answer, close, denials = (self._text() for _ in range(4))
        return Came(passed, answer, close.decode(), tuple(denials.decode().splitlines()))

    def _text(self) -> bytes:
        assert self._process.stdout is not None
        head = self._process.stdout.read(4)
        assert len(head) == 4, "the probe has ended"
        return self._process.stdout.read(int.from_bytes(head))


@contextmanager
def probe(folder: Path) -> Iterator[Probe]:
    """Builds it in `folder` and runs it."""
    program = folder / "kafka-probe"
    command: list[str | Path] = ["rustc", "--edition", "2021", "-C", "overflow-checks=on", "-o", program, _SOURCE]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    running = Probe(program)
    try:
        yield running
    finally:
        running.close()
