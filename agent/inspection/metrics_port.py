"""A TCP port of loopback for those who cannot ask a Unix socket: metrics, and probes. Off unless configured."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ..errors import HostError
from .api import Exposes, add_metrics
from .readiness import enforces

_HOST = "127.0.0.1"


class MetricsPort:
    """Serves /metrics, /metrics/envoy, /alive and /ready, and nothing else, on 127.0.0.1 between `start` and `stop`.
    Port 0 is off."""

    def __init__(self, port: int, metrics: Exposes, status: Callable[[], Awaitable[Any]]) -> None:
        self._port = port
        application = web.Application()
        add_metrics(application, metrics)
        application.router.add_get("/alive", _alive)
        application.router.add_get("/ready", _ready(status))
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> None:
        """Raises HostError when the port cannot be had."""
        if not self._port:
            return
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _HOST, self._port).start()
        except OSError as error:
            reason = "another program has it" if error.errno == errno.EADDRINUSE else error.strerror
            raise HostError(
                f"metrics_port {_HOST}:{self._port} cannot be used ({reason}): set another in the --config file"
            ) from None

    async def stop(self) -> None:
        """Stops listening."""
        await self._runner.cleanup()


async def _alive(_: web.Request) -> web.Response:
    """That it answers is the answer."""
    return web.Response(text="alive\n")


def _ready(status: Callable[[], Awaitable[Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """200 when the node enforces, else 503; either with a word."""

    async def handle(_: web.Request) -> web.Response:
        now = await status()
        if enforces(now):
            return web.Response(text="ready\n")
        return web.Response(text=f"agent {now['agent']['state']}, Envoy {now['envoy']['sentence']}\n", status=503)

    return handle
