"""Envoy's own counters, read over the Unix socket of its admin interface: the proof of which way traffic went."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Sequence
from pathlib import Path

from .errors import StartError

_TIMEOUT = 5.0  # seconds


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def matching(admin: Path, pattern: str) -> dict[str, int]:
    """The counters and gauges whose name matches the regular expression `pattern`.

    Raises:
        StartError: nobody answers on `admin`.
    """
    connection = _UnixConnection(admin)
    try:
        connection.request("GET", f"/stats?format=json&filter={pattern}")
        body = connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise StartError(f"Envoy does not answer on {admin} ({error})") from None
    finally:
        connection.close()
    stats = json.loads(body)["stats"]
    return {item["name"]: int(item["value"]) for item in stats if "value" in item}


def requests(admin: Path, stat_prefixes: Sequence[str]) -> int:
    """Requests that the connection managers with these stat prefixes have taken since Envoy started."""
    found = matching(admin, r"^http\..*\.downstream_rq_total$")
    return sum(found.get(f"http.{prefix}.downstream_rq_total", 0) for prefix in stat_prefixes)
