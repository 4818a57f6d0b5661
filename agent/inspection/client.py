"""Asking a running agent: the other end of the local API."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from ..errors import InputError, OtherVersionError, UnreachableError

LONGEST_QUESTION = 1 << 16  # bytes of a path with its query
_TIMEOUT = 10.0  # seconds; the API answers from memory


class Answer(dict[str, Any]):
    """An object of an answer: a field that it lacks is one that the agent does not know yet, or any more."""

    def __missing__(self, field: str) -> Any:
        raise OtherVersionError(
            f"the agent is of another version than this command: its answer has no '{field}'; "
            "ask it with the lockgate that it runs with"
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(run_dir: Path, path: str) -> Any:
    """GET `path` of the agent in `run_dir`, decoded from JSON.

    Raises:
        UnreachableError: no agent answers there.
        OtherVersionError: one of another version does, now or where a field is looked up that it did not send.
        InputError: the agent answered with an error; its sentence is kept. Or the question is too long.
    """
    if len(path) > LONGEST_QUESTION:
        raise InputError("the question is too long for the agent; ask about files, with --policies and --workloads")
    address = run_dir / "agent.sock"
    connection = _UnixConnection(address)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except PermissionError:
        raise UnreachableError(f"{address} is for root only; run it with sudo") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreachableError(
            f"no agent answers on {address} ({reason}): start one with 'lockgate agent run', or give its --run-dir"
        ) from None
    finally:
        connection.close()
    try:
        value = json.loads(body, object_hook=Answer)
        if answer.status == 200:
            return value
        sentence = str(value["error"])
    except (ValueError, OtherVersionError, TypeError):
        if answer.status == 404:
            raise OtherVersionError(
                f"the agent on {address} does not know {path.partition('?')[0]}: it is of another version than this "
                "command; ask it with the lockgate that it runs with"
            ) from None
        raise UnreachableError(
            f"what answers on {address} (HTTP status {answer.status}) is no healthy agent: see the agent's log"
        ) from None
    raise InputError(sentence)
