"""The local API: JSON over a Unix socket that only root may open. Read-only; answers come from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web


class View(Protocol):
    """What the API shows; every method returns JSON types."""

    async def status(self) -> Any: ...
    async def endpoints(self) -> Any: ...
    async def identities(self) -> Any: ...
    async def policies(self) -> Any: ...
    async def policy(self, name: str) -> Any: ...
    async def xds(self) -> Any: ...
    async def datapath(self) -> Any: ...
    async def dns(self) -> Any: ...


class NoSuchPolicyError(LookupError):
    """Raised by `View.policy`; the message is for the user."""


class LocalApi:
    """Serves `view` on `socket` between `start` and `stop`."""

    def __init__(self, socket: Path, view: View) -> None:
        self._socket = socket
        application = web.Application()
        for path, answer in (
            ("/v1/status", view.status),
            ("/v1/endpoints", view.endpoints),
            ("/v1/identities", view.identities),
            ("/v1/policies", view.policies),
            ("/v1/xds", view.xds),
            ("/v1/datapath", view.datapath),
            ("/v1/dns", view.dns),
        ):
            application.router.add_get(path, _handler(answer))
        application.router.add_get("/v1/policies/{name:.+}", _policy_handler(view))
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> None:
        """Listens; a socket left by an agent that was killed is replaced (the agent's lock is held by now)."""
        self._socket.unlink(missing_ok=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self._socket)).start()
        self._socket.chmod(0o600)

    async def stop(self) -> None:
        """Stops listening and removes the socket."""
        await self._runner.cleanup()
        self._socket.unlink(missing_ok=True)


def _handler(answer: Callable[[], Awaitable[Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response(await answer())

    return handle


def _policy_handler(view: View) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await view.policy(request.match_info["name"]))
        except NoSuchPolicyError as error:
            return web.json_response({"error": str(error)}, status=404)

    return handle
