"""A Docker or Podman engine as a store of workloads: its containers, as they come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from . import container_network
from .container import Container, list_containers, read_container
from .content import ContainerNetwork, Document, StoreContent
from .process import born

SCHEME = "unix://"
# Podman says `died`; what happens inside a container (exec, health checks) changes nothing here.
_NEWS = frozenset(
    ("start", "die", "died", "stop", "restart", "rename", "destroy", "remove", "connect", "disconnect", "update")
)
_EVENTS = {"filters": json.dumps({"type": ["container", "network"]})}
# Podman tells of no network that is made; but its bridge is not there before the first container on it.
_NEWS_OF_NETWORKS = frozenset(("create", "init", "destroy", "remove"))
# What Docker does not know and Podman does; only there it says what its bridges are called.
_NETWORKS_OF_PODMAN = "/v4.0.0/libpod/networks/json"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to reach an engine
_ANSWER_SECONDS = 10.0
_RELIST_SECONDS = 30.0  # an event may get lost
_PAUSES_OF_TROUBLE = (0.05, 0.2)  # Podman fails about a container that is being removed
_AT_ONCE = 8  # requests
_GONE = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)


class EngineStore:
    """The containers of one engine, by the Unix socket of its API; and the networks that are closed to others, if any.

    While the engine is away what it told last stays, less the containers whose processes have ended. `memory` is a
    file that keeps this for an agent that starts while the engine is away.
    """

    def __init__(self, engine: str, memory: Path | None = None, *, closed: bool = True) -> None:
        self._engine = engine
        self._memory = memory
        self._closed = closed
        self._containers: dict[str, Container] = {}
        self._networks: tuple[ContainerNetwork, ...] = ()
        self._documents: dict[str, Document] = {}
        self._absent = ""  # why the engine cannot be reached

    async def read(self) -> StoreContent:
        """The containers now, or those remembered. Raises nothing: an engine may start after the agent."""
        self._recall()
        try:
            async with self._session() as session:
                await self._list(session)
        except _GONE as error:
            self._away(error)
        return self._content()

    async def changes(self) -> AsyncIterator[StoreContent]:
        """Content after each event that matters, and whenever the engine goes or comes back."""
        last: StoreContent | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._session() as session, session.get("/events", params=_EVENTS) as events:
                    events.raise_for_status()
                    await self._list(session)  # after the subscription: nothing falls between the two
                    pause = _FIRST_PAUSE
                    news = _Lines(events.content)
                    while True:
                        content = self._content()
                        if content != last:
                            last = content
                            yield content
                        await self._next(session, news)
            except _GONE as error:
                self._away(error)
            content = self._content()
            if content != last:
                last = content
                yield content
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(self._engine.removeprefix(SCHEME))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_SECONDS)
        return aiohttp.ClientSession("http://engine", connector=connector, timeout=timeout)

    async def _list(self, session: aiohttp.ClientSession) -> None:
        await self._list_networks(session)
        listed = await _get(session, "/containers/json")
        turn = asyncio.Semaphore(_AT_ONCE)

        async def inspect(number: str) -> Container | None:
            async with turn:
                return await _inspect(session, number)

        found = await asyncio.gather(*(inspect(str(each["Id"])) for each in listed or ()))
        self._absent = ""
        self._take({each.id: each for each in found if each is not None})

    async def _list_networks(self, session: aiohttp.ClientSession) -> None:
        if not self._closed:
            return
        told: Any = None
        with suppress(aiohttp.ClientResponseError):
            told = await _get(session, _NETWORKS_OF_PODMAN)
        if told is None:
            told = await _get(session, "/networks")
        networks = container_network.read_networks(told or ())
        if networks != self._networks:
            self._networks = networks
            self._remember()

    async def _next(self, session: aiohttp.ClientSession, news: _Lines) -> None:
        """Waits for news and looks at whom they are about."""
        try:
            async with asyncio.timeout(_RELIST_SECONDS):
                lines = await news.some()
        except TimeoutError:
            await self._list(session)
            return
        lines = list(lines)
        if any(map(_of_networks, lines)):
            await self._list_networks(session)
        numbers = dict.fromkeys(number for line in lines if (number := _whom(line)) is not None)
        if not numbers:
            return
        containers = dict(self._containers)
        for number in numbers:
            container = await _inspect(session, number)
            if container is not None:
                containers[container.id] = container
            else:
                containers.pop(number, None)
        self._take(containers)

    def _take(self, containers: Mapping[str, Container]) -> None:
        if containers != self._containers:
            self._containers = dict(containers)
            self._remember()

    def _away(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        self._absent = f"{self._engine}: the engine does not answer ({reason}); containers that run stay enforced"
        self._take({number: each for number, each in self._containers.items() if _may_live(each)})

    def _content(self) -> StoreContent:
        listing = list_containers(self._engine, self._containers.values())
        documents = {
            each.source: known if (known := self._documents.get(each.source)) == each else each
            for each in listing.documents
        }
        self._documents = documents
        problems = [self._absent] if self._absent else []
        return StoreContent((), tuple(documents.values()), (*problems, *listing.problems), self._networks)

    def _remember(self) -> None:
        if self._memory is None:
            return
        new = self._memory.with_suffix(".new")
        with suppress(OSError):  # the directory is checked by who keeps policies there
            known = {
                "containers": [each.to_json() for each in self._containers.values()],
                "networks": list(map(container_network.to_json, self._networks)),
            }
            new.write_text(json.dumps(known))
            new.replace(self._memory)

    def _recall(self) -> None:
        if self._memory is None:
            return
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self._memory.read_text())
            if isinstance(known, list):  # as it was written before there were networks in it
                known = {"containers": known, "networks": []}
            containers = [Container.from_json(each) for each in known["containers"]]
            networks = tuple(map(container_network.from_json, known["networks"]))
            self._containers = {each.id: each for each in containers}
            self._networks = networks if self._closed else ()


def _may_live(container: Container) -> bool:
    """False when its process has surely ended."""
    try:
        return container.born in (0, born(container.pid))
    except OSError:
        return True


class _Lines:
    """Lines of a stream, as many as came together."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream
        self._rest = b""

    async def some(self) -> Iterable[bytes]:
        """One at least. Raises ConnectionResetError at the end."""
        while True:
            chunk = await self._stream.readany()
            if not chunk:
                raise ConnectionResetError("it closed the stream of events")
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines:
                return lines


def _whom(line: bytes) -> str | None:
    """The container that an event is about, if it matters."""
    if not line.strip():
        return None
    event = json.loads(line)
    if str(event.get("Action") or event.get("status")) not in _NEWS:
        return None
    actor = event.get("Actor") or {}
    # Docker names the network and, beside it, the container; Podman names the container.
    number = (actor.get("Attributes") or {}).get("container") if event.get("Type") == "network" else None
    number = number or actor.get("ID") or event.get("id")
    return str(number) if number else None


def _of_networks(line: bytes) -> bool:
    """True for an event after which there may be other networks."""
    if not line.strip():
        return False
    event = json.loads(line)
    return event.get("Type") == "network" or str(event.get("Action") or event.get("status")) in _NEWS_OF_NETWORKS


async def _inspect(session: aiohttp.ClientSession, number: str) -> Container | None:
    told = await _get(session, f"/containers/{number}/json")
    if told is None:
        return None
    pid = int(told["State"].get("Pid") or 0)
    return read_container(told, born(pid) or 0)


async def _get(session: aiohttp.ClientSession, path: str) -> Any:
    """None when there is no such thing."""
    for patience in (*_PAUSES_OF_TROUBLE, None):
        async with asyncio.timeout(_ANSWER_SECONDS), session.get(path) as answer:
            if answer.status == 404:
                return None
            if answer.status < 500 or patience is None:
                answer.raise_for_status()
                return await answer.json(content_type=None)
        await asyncio.sleep(patience)
    return None
