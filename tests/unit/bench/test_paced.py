"""The load at a fixed rate asks by the clock, and what a stall makes wait is charged to whoever stalled."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from lockgate.bench.errors import LoadError
from lockgate.bench.load import Load, parse
from lockgate.bench.workplace import compiled

_RATE, _SECONDS, _STALL = 200, 1, 0.5
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("paced.c", tmp_path_factory.mktemp("paced"))


def _serve(listener: socket.socket, answer: bytes, stall_at: int) -> None:
    """Answers one connection; before the request number `stall_at` it sleeps."""
    connection, _ = listener.accept()
    served = 0
    with connection:
        while connection.recv(4096):
            served += 1
            if served == stall_at:
                time.sleep(_STALL)
            try:
                connection.sendall(answer)
            except OSError:
                return


def _load(paced: Path, answer: bytes = _ANSWER, stall_at: int = 0) -> Load:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, answer, stall_at), daemon=True).start()
        port = str(listener.getsockname()[1])
        command = [str(paced), "127.0.0.1", port, "/", str(_RATE), "1", str(_SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return parse("paced", done.stdout, "u")


def test_every_request_that_a_stall_kept_waiting_shows_it(paced: Path) -> None:
    load = _load(paced, stall_at=20)
    assert load.requests == _RATE * _SECONDS
    # A closed loop would have one slow request here. Half of these were due while the server slept.
    assert load.p99 > _STALL / 2 * 1e6
    assert load.p50 <= load.p99 <= load.p999


def test_an_answer_other_than_200_is_a_failure(paced: Path) -> None:
    with pytest.raises(LoadError, match="failed under load"):
        _load(paced, _ANSWER.replace(b"200 OK", b"403 No"))
