"""Asks Envoy's admin interface over its Unix socket.

What Envoy answers is returned decoded but otherwise as it is (https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin);
`inspect` makes tables of it.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from ..errors import AdminError, AdminUnreachableError


@dataclass(frozen=True, slots=True)
class TlsDoor:
    """Where a part of a remote Envoy's admin interface is reached by TLS (remote_admin.py). `context` is asked for each
    request, and may raise OSError."""

    host: str
    port: int
    context: Callable[[], ssl.SSLContext]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Admin:
    """The admin interface of one Envoy. An async context manager; survives restarts of Envoy.

    Every method raises `AdminUnreachableError` when nothing answers on the socket, and `AdminError` when the answer is
    an error or takes longer than `timeout` seconds.
    """

    def __init__(self, socket: Path | TlsDoor, *, timeout: float = 10.0) -> None:
        self.socket = socket
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ready(self) -> bool:
        """True once Envoy serves: its listeners are open. False also when it does not answer at all."""
        try:
            await self._ask("GET", "/ready")
        except AdminError:
            return False
        return True

    async def server_info(self) -> dict[str, Any]:
        """Version, state (LIVE, INITIALIZING ...), uptime and command line."""
        return await self._ask_json("/server_info")

    async def config_dump(self, *, resource: str = "", name: str = "", mask: str = "") -> dict[str, Any]:
        """The whole configuration, or one `resource` field of it (ecds_filters, static_listeners ...); `name` is an RE2
        that must match a resource's whole name, `mask` a FieldMask over each."""
        asked = (("resource", resource), ("name_regex", name), ("mask", mask))
        query = {key: value for key, value in asked if value}
        return await self._ask_json("/config_dump", query)

    async def clusters(self) -> dict[str, Any]:
        """Clusters with their hosts and counters."""
        return await self._ask_json("/clusters", {"format": "json"})

    async def listeners(self) -> dict[str, Any]:
        """Listeners with their addresses."""
        return await self._ask_json("/listeners", {"format": "json"})

    async def certs(self) -> dict[str, Any]:
        """Certificates in use, with their days until expiry; never a key."""
        return await self._ask_json("/certs")

    async def stats(self, pattern: str = "") -> dict[str, int | str]:
        """Counters, gauges and text readouts whose names match the RE2 `pattern` anywhere. Histograms are left out."""
        query = {"format": "json"} | ({"filter": pattern} if pattern else {})
        answer = await self._ask_json("/stats", query)
        return {entry["name"]: entry["value"] for entry in answer["stats"] if "name" in entry}

    async def prometheus(self, pattern: str = "") -> str:
        """The statistics whose names match the RE2 `pattern` anywhere, in Prometheus' text format."""
        return await self._ask("GET", "/stats/prometheus", {"filter": pattern} if pattern else {})

    async def logging(self, level: str = "", logger: str = "") -> dict[str, str]:
        """Level of each logger; with `level`, first set it, for `logger` or for all."""
        query = {"paths": f"{logger}:{level}"} if logger else {"level": level}
        text = await self._ask("POST", "/logging", query if level else {})
        # "active loggers:\n  admin: warning\n  ..."
        lines = (line.strip().partition(": ") for line in text.splitlines()[1:])
        return {name: found for name, colon, found in lines if colon}

    async def reopen_logs(self) -> None:
        """Open the access logs anew, after they have been renamed."""
        await self._ask("POST", "/reopen_logs")

    async def _ask_json(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        text = await self._ask("GET", path, query)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise AdminError(f"Envoy's {path} is not JSON: {text[:80]!r}") from error
        if not isinstance(answer, dict):
            raise AdminError(f"Envoy's {path} is not a JSON object: {text[:80]!r}")
        return answer

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None) -> str:
        if self._session is None:
            unix = aiohttp.UnixConnector(str(self.socket)) if isinstance(self.socket, Path) else None
            self._session = aiohttp.ClientSession(
                connector=unix, timeout=aiohttp.ClientTimeout(total=self._timeout), cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            secure = None if isinstance(self.socket, Path) else self.socket.context()
            url = f"http://envoy{path}" if secure is None else f"https://{self.socket}{path}"
            request = self._session.request(
                method, url, params=query or {}, ssl=secure or True, allow_redirects=secure is None
            )
            async with request as response:
                text = await response.text()
                if response.status >= 400:
                    said = text.strip().partition("\n")[0][:200]
                    raise AdminError(f"Envoy's {path} answered {response.status}: {said}")
                return text
        except TimeoutError as error:
            raise AdminError(f"Envoy did not answer {path} on {self.socket} within {self._timeout:g} s") from error
        except (aiohttp.ClientConnectionError, OSError) as error:
            raise AdminUnreachableError(
                f"Envoy does not answer on {self.socket} ({_reason(error)}); is it running? see `lockgate status`"
            ) from error
        except aiohttp.ClientError as error:
            raise AdminError(f"Envoy's {path} on {self.socket} broke off: {error}") from error


def _reason(error: aiohttp.ClientConnectionError | OSError) -> str:
    """Without what aiohttp adds about TLS."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    strerror = getattr(cause, "strerror", None)
    return str(strerror or cause or error)
