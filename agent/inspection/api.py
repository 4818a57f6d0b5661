"""The local API: JSON over a Unix socket that only root may open. Read-only; answers come from memory."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from ...envoy.errors import EnvoyError
from ...policies import Flow
from ...policies.errors import FlowError
from .client import LONGEST_QUESTION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
    async def services(self) -> Any: ...
    async def explain(self, flow: Flow) -> Any: ...


class Exposes(Protocol):
    """Metrics in Prometheus' text format: the agent's with the chosen ones of Envoy, and all of Envoy's."""

    async def text(self) -> bytes: ...
    async def envoy(self) -> bytes: ...


class NoSuchPolicyError(LookupError):
    """Raised by `View.policy`; the message is for the user."""


class LocalApi:
    """Serves `view` and `metrics` on `socket` between `start` and `stop`."""

    def __init__(self, socket: Path, view: View, metrics: Exposes) -> None:
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
            ("/v1/services", view.services),
        ):
            application.router.add_get(path, _handler(answer))
        application.router.add_get("/v1/policies/{name:.+}", _policy_handler(view))
        application.router.add_get("/v1/explain", _explain_handler(view))
        add_metrics(application, metrics)
        self._runner = web.AppRunner(application, access_log=None, max_line_size=2 * LONGEST_QUESTION)

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


def _explain_handler(view: View) -> Callable[[web.Request], Awaitable[web.Response]]:
    """`?from=...&to=...&port=...&protocol=...`: what the policies in force say of a connection; `?flow=...`, a flow in
    JSON, of a request."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await view.explain(_flow(request.query)))
        except FlowError as error:
            return web.json_response({"error": str(error)}, status=400)

    return handle


def _flow(query: Mapping[str, str]) -> Flow:
    if "flow" not in query:
        return Flow.from_json({key: query.get(key, "") for key in ("from", "to", "port", "protocol")})
    try:
        return Flow.from_json(json.loads(query["flow"]))
    except json.JSONDecodeError as error:
        raise FlowError(f"the flow is not JSON: {error.msg}") from None


def add_metrics(application: web.Application, metrics: Exposes) -> None:
    """The two paths that a Prometheus reads."""
    application.router.add_get("/metrics", _text_handler(metrics.text))
    application.router.add_get("/metrics/envoy", _text_handler(metrics.envoy))


def _text_handler(text: Callable[[], Awaitable[bytes]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        try:
            return web.Response(body=await text(), headers={"Content-Type": CONTENT_TYPE})
        except EnvoyError as error:
            return web.Response(text=f"{error}\n", status=503)

    return handle
