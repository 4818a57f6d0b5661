"""The metrics on a TCP port of loopback, for a Prometheus that cannot read Unix sockets. Off unless configured."""

from __future__ import annotations

import errno

from aiohttp import web

from ..errors import HostError
from .api import Exposes, add_metrics

_HOST = "127.0.0.1"


class MetricsPort:
    """Serves /metrics and /metrics/envoy, and nothing else, on 127.0.0.1 between `start` and `stop`. Port 0 is off."""

    def __init__(self, port: int, metrics: Exposes) -> None:
        self._port = port
        application = web.Application()
        add_metrics(application, metrics)
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
