"""A connection to a cluster's API: lists, watches, and the status of a policy.

Plain aiohttp: the generated clients know every type of the API, of which nothing is needed here, and cost each node a
second and 75 MB.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeAlias

import aiohttp

from .access import Access
from .known import GONE, ExpiredError
from .resource import Resource

PAGE = 500  # objects of a list that come at once
WATCH_SECONDS = 300  # after which the server ends a watch; each asks for another time near it
_ANSWER_SECONDS = 30.0
_LONGEST_LINE = 16 << 20  # bytes; etcd takes no object over 1.5 MB
_MERGE = "application/merge-patch+json"
# A server that vanished without a word is noticed after half a minute.
_ALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))

_AddrInfo: TypeAlias = tuple[Any, Any, int, str, Any]


class AnswerError(Exception):
    """The server answered, and refused. `retry` are the seconds that it wants to be left alone."""

    def __init__(self, status: int, reason: str, retry: float = 0.0) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.retry = retry


TROUBLE = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, AttributeError, AnswerError)


class Api:
    """One session of one user; close it with `async with`. Methods raise what is in TROUBLE."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=access.tls, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_SECONDS),
            headers={"accept": "application/json", "user-agent": "lockgate"},
            trust_env=False,
        )

    async def all(self, resource: Resource) -> tuple[list[dict[str, Any]], str]:
        """All objects and the version of the whole, page by page. Raises ExpiredError when it took too long."""
        items: list[dict[str, Any]] = []
        query = {**resource.selection, "limit": str(PAGE)}
        while True:
            async with self._ask("GET", resource.path, query, _ANSWER_SECONDS) as answer:
                page = await answer.json(content_type=None)
            items += page.get("items") or ()
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return items, str(metadata["resourceVersion"])
            query["continue"] = metadata["continue"]

    async def version(self, resource: Resource) -> str:
        """At which version the collection is now; it costs the server one object."""
        query = {**resource.selection, "limit": "1"}
        async with self._ask("GET", resource.path, query, _ANSWER_SECONDS) as answer:
            return str((await answer.json(content_type=None))["metadata"]["resourceVersion"])

    async def watch(self, resource: Resource, version: str, seconds: int) -> AsyncIterator[list[dict[str, Any]]]:
        """Events after `version`, as many as came together; ends when the server ends it."""
        query = {
            **resource.selection,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        async with self._ask("GET", resource.path, query, None) as answer:
            yield []  # it is open
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise ValueError(f"an event of more than {_LONGEST_LINE} bytes")
                events = [json.loads(line) for line in lines if line.strip()]
                if events:
                    yield events

    async def write_status(self, resource: Resource, namespace: str, name: str, patch: dict[str, Any]) -> None:
        """Merges `patch` into the object's status subresource."""
        within = f"/namespaces/{namespace}" if namespace else ""
        path = f"/apis/{resource.api_version}{within}/{resource.plural}/{name}/status"
        async with self._ask("PATCH", path, {"fieldManager": "lockgate"}, _ANSWER_SECONDS, json.dumps(patch)):
            pass

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, query: dict[str, str], seconds: float | None, body: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"content-type": _MERGE} if body is not None else {}
        if token := self._access.token():
            headers["authorization"] = f"Bearer {token}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_ANSWER_SECONDS)
        asked = self._session.request(
            method,
            self._access.server + path,
            params=query,
            data=body,
            headers=headers,
            timeout=timeout,
            server_hostname=self._access.name or None,
            allow_redirects=False,
        )
        async with asked as answer:
            if answer.status == GONE:
                raise ExpiredError(await _reason(answer))
            if answer.status >= 300:
                raise AnswerError(answer.status, await _reason(answer), _retry(answer))
            yield answer

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


def _socket(address: _AddrInfo) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _ALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def _reason(answer: aiohttp.ClientResponse) -> str:
    """The message of a `kind: Status`, or what HTTP says."""
    try:
        text = str(json.loads(await answer.text())["message"])
    except (ValueError, KeyError, TypeError, aiohttp.ClientError):
        text = answer.reason or "no reason given"
    return text[:300]


def _retry(answer: aiohttp.ClientResponse) -> float:
    try:
        return min(60.0, max(0.0, float(answer.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0
