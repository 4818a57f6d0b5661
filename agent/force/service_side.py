"""Services' own addresses on this node: the world in force and the backends' health, brought into the kernel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from ...policies import World
from ...policies.frontends import Answering
from ...policies.service import Backend, Frontend
from ...redirect.errors import RedirectError
from ...redirect.kernel.netns_cookie import Cookies, own_cookie
from ...redirect.services import ServiceAddresses
from .health import Health, HealthChecker, Target

_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 2.0  # others of root's may unpin and detach
_log = logging.getLogger("lockgate.agent")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """One backend of an address. `health` is None where nobody asks."""

    backend: Backend
    weight: int
    health: Health | None

    @property
    def healthy(self) -> bool:
        """True when nothing is known against it."""
        return self.health is None or self.health.up is True

    @property
    def serves(self) -> bool:
        """True when it is given new connections."""
        return self.weight > 0 and self.healthy


class ServiceSide:
    """Follows one world after the other; `run` follows the health. Errors of the kernel are in `problems`, and tried
    again."""

    def __init__(self, addresses: ServiceAddresses) -> None:
        self._addresses = addresses
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._checker = HealthChecker(self._news.set)
        self._cookies = Cookies()
        self._world: World | None = None
        self._failure = ""
        self._unreached: tuple[str, ...] = ()

    async def follow(self, world: World) -> None:
        """Brings the services of `world`, which the kernel has, into force. Asking it twice costs nothing."""
        async with self._turn:
            if world is self._world:
                return
            first, self._world = self._world is None, world
            self._watch(world, await self._left_serving() if first else {})
        await self._bring()
        if self._failure:
            self._news.set()  # to be tried again

    async def run(self) -> None:
        """Brings every change of health into force, and back what somebody takes away; runs until it is cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(_RETRY_SECONDS if self._failure else _LOOK_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    if not self._failure and not await self._is_cut_off():
                        continue
                self._news.clear()
                await self._bring()
        finally:
            await self._checker.close()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in sentences."""
        world = self._world
        found = list(world.frontends.problems) if world is not None else []
        if self._failure:
            found.append(f"service addresses are not as they should be: {self._failure}")
        found += self._unreached
        for frontend, (answering, choices) in self._choices().items():
            if not any(choice.serves for choice in choices):
                reasons = sorted({_reason(choice) for choice in choices}) or ["it has no backends"]
                found.append(
                    f"service {answering.service.key}: nobody serves {frontend}, connections are refused: "
                    f"{', '.join(reasons)}"
                )
        return tuple(found)

    def view(self) -> list[dict[str, Any]]:
        """Every address with its backends, for the local API."""
        return [
            {
                "service": answering.service.key,
                "address": str(frontend.ip),
                "port": frontend.port,
                "protocol": str(frontend.protocol),
                "backends": [
                    {
                        "address": str(choice.backend.ip),
                        "port": choice.backend.port,
                        "weight": choice.weight,
                        "health": _word(choice.health),
                        "serves": choice.serves,
                        "why": choice.health.why if choice.health is not None else "",
                    }
                    for choice in choices
                ],
            }
            for frontend, (answering, choices) in self._choices().items()
        ]

    def _choices(self) -> dict[Frontend, tuple[Answering, list[Choice]]]:
        if self._world is None:
            return {}
        found: dict[Frontend, tuple[Answering, list[Choice]]] = {}
        for frontend, answering in self._world.frontends.answering.items():
            check = answering.service.health
            found[frontend] = (
                answering,
                [
                    Choice(backend, weight, self._checker.state(Target(backend, check)) if check is not None else None)
                    for backend, weight in answering.backends.items()
                ],
            )
        return found

    def _watch(self, world: World, serving: Mapping[Frontend, Set[Backend]]) -> None:
        """What serves by the kernel of an earlier agent goes on until it is asked: a restart cuts nobody off."""
        targets: dict[Target, bool] = {}
        for frontend, answering in world.frontends.answering.items():
            check = answering.service.health
            for backend in answering.backends if check is not None else ():
                assert check is not None
                target = Target(backend, check)
                targets[target] = targets.get(target, False) or backend in serving.get(frontend, ())
        self._checker.watch(targets)

    async def _bring(self) -> None:
        async with self._turn:
            world = self._world
            if world is None:
                return
            wanted = {
                frontend: {choice.backend: choice.weight for choice in choices if choice.healthy}
                for frontend, (_, choices) in self._choices().items()
            }
            try:
                self._unreached = await _in_thread(lambda: self._apply(world, wanted))
            except (OSError, RedirectError) as error:
                self._failure = str(error)
            else:
                self._failure = ""

    def _apply(self, world: World, wanted: Mapping[Frontend, Mapping[Backend, int]]) -> tuple[str, ...]:
        """A sentence for each endpoint whose sockets cannot be served. Blocking."""
        vips = world.frontends.vips.keys()
        if not vips:
            self._addresses.apply({}, frozenset(), frozenset())
            return ()
        cookies = self._cookies.of(world.endpoints)
        self._addresses.apply(wanted, vips, {own_cookie(), *cookies.values()})
        return tuple(
            f"endpoint {endpoint.key} cannot use services' addresses: its network namespace has no name and no process"
            for endpoint in world.endpoints
            if endpoint.local and not endpoint.of_node and endpoint.ifindex not in cookies
        )

    async def _is_cut_off(self) -> bool:
        async with self._turn:
            try:
                cut_off = await _in_thread(self._addresses.is_cut_off)
            except OSError as error:
                self._failure = str(error)
                return True
        if cut_off:
            _log.warning("service addresses have lost their programs: attached again")
        return cut_off

    async def _left_serving(self) -> Mapping[Frontend, Set[Backend]]:
        try:
            return await _in_thread(self._addresses.serving)
        except (OSError, RedirectError):  # told when they are to be changed
            return {}


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread; who is cancelled meanwhile waits for its end, so that nothing is closed under it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait([running])


def _word(health: Health | None) -> str:
    if health is None:
        return "not asked"
    return {None: "unknown", True: "healthy", False: "unhealthy"}[health.up]


def _reason(choice: Choice) -> str:
    if not choice.weight:
        return f"{choice.backend} has weight 0"
    assert choice.health is not None
    if choice.health.up is None:
        return f"{choice.backend} is about to be asked"
    return f"{choice.backend} is unhealthy ({choice.health.why})"
