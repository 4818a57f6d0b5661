"""Health of services' backends: each is asked from this node again and again, and counts as what it answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from ...policies.service import Backend, HealthCheck, HealthKind


@dataclass(frozen=True, slots=True)
class Health:
    """`up` None: never asked. `against`: answers in a row that say the contrary. `why`: of the last bad answer."""

    up: bool | None = None
    against: int = 0
    why: str = ""

    def after(self, why: str, check: HealthCheck) -> Health:
        """One more answer; `why` says what was wrong and is empty for a good one. The first one counts at once."""
        good = not why
        if self.up is None or good == self.up:
            return Health(good if self.up is None else self.up, 0, why)
        against = self.against + 1
        if against >= (check.rise if good else check.fall):
            return Health(good, 0, why)
        return Health(self.up, against, why or self.why)


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask and how."""

    backend: Backend
    check: HealthCheck


class HealthChecker:
    """Asks every target it is given, each at its own interval; `changed` is called when one counts as another."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._states: dict[Target, Health] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}

    def watch(self, targets: Mapping[Target, bool]) -> None:
        """Ask these from now on and no others. True: a new one counts as up before it is asked."""
        for target in self._tasks.keys() - targets.keys():
            self._tasks.pop(target).cancel()
            del self._states[target]
        for target, up in targets.items():
            if target not in self._tasks:
                self._states[target] = Health(True if up else None)
                self._tasks[target] = asyncio.create_task(self._ask(target), name=f"health of {target.backend}")

    def state(self, target: Target) -> Health:
        """What is known of one that is watched."""
        return self._states.get(target, Health())

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, target: Target) -> None:
        while True:
            began = time.monotonic()
            why = await probe(target)
            before = self._states[target]
            self._states[target] = after = before.after(why, target.check)
            if after.up != before.up:
                self._changed()
            await asyncio.sleep(max(0.0, began + target.check.interval - time.monotonic()))


async def probe(target: Target) -> str:
    """Asks once. What is wrong, in a few words; empty when all is well."""
    check = target.check
    ip, port = target.backend.ip, check.port or target.backend.port
    try:
        async with asyncio.timeout(check.timeout):
            if check.kind is HealthKind.HTTP:
                return await _get(f"http://{f'[{ip}]' if ip.version == 6 else ip}:{port}{check.path}")
            _, writer = await asyncio.open_connection(str(ip), port)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    except TimeoutError:
        return f"no answer in {check.timeout:g} s"
    except OSError as error:
        return _words(error)
    return ""


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno is not None else str(error)


async def _get(url: str) -> str:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        try:
            async with session.get(url, allow_redirects=False) as response:
                return "" if 200 <= response.status < 400 else f"status {response.status}"
        except aiohttp.ClientConnectorError as error:
            return _words(error.os_error)
        except aiohttp.ClientError as error:
            return f"no HTTP: {error}"
