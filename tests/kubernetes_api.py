"""An API server of Kubernetes for tests: TLS, tokens, roles, lists in pages, watches with bookmarks, a history that is
forgotten, status subresources, kinds that come with their CustomResourceDefinition.

It behaves as https://kubernetes.io/docs/reference/using-api/api-concepts/ says. Its roles are those of the manifests in
compose/kubernetes, so what the agent may not do there fails here too. It runs in a thread of its own; `ApiServer`
is what tests call.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from aiohttp import web
from lockgate.tests.kubernetes_certificates import certificates
from lockgate.tests.kubernetes_objects import BUILT_IN, StatusError, Store, Watcher
from lockgate.tests.kubernetes_roles import Roles

T = TypeVar("T")
USER = "system:serviceaccount:lockgate:lockgate"
TOKEN = "a-token-of-the-agent"


@dataclass
class Request:
    """What somebody asked."""

    verb: str
    plural: str
    query: Mapping[str, str]


class Handler:
    """One path for all collections."""

    def __init__(self, store: Store, roles: Roles) -> None:
        self.store = store
        self.roles = roles
        self.tokens = {TOKEN: USER}
        self.absent: set[str] = set()  # collections that are not served
        self.failing: dict[str, tuple[int, str]] = {}  # collections that answer with an error only
        self.requests: list[Request] = []
        self.transports: set[asyncio.Transport] = set()
        self.late_expiry = False  # 410 comes as an event instead of an answer

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Anything."""
        if request.transport is not None:
            self.transports.add(request.transport)
        try:
            return await self._serve(request)
        except StatusError as error:
            return error.answer({"retry-after": "1"} if error.told["code"] == 429 else None)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        plural, version, namespace, name, sub = _parts(request.path)
        user = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        query = request.query
        name = name or query.get("fieldSelector", "").removeprefix("metadata.name=")
        watch = query.get("watch") in ("1", "true")
        verb = {"GET": "watch" if watch else "list", "PATCH": "patch"}.get(request.method, request.method.lower())
        self.requests.append(Request(verb, plural + (f"/{sub}" if sub else ""), dict(query)))
        group = version.partition("/")[0] if "/" in version else ""
        if not self.roles.allow(user, verb, group, plural + (f"/{sub}" if sub else ""), namespace):
            scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            what = f'User "{user}" cannot {verb} resource "{plural}" in API group "{group}" {scope}'
            raise StatusError(403, "Forbidden", f"{plural} is forbidden: {what}")
        if plural in self.failing:
            raise StatusError(self.failing[plural][0], "InternalError", self.failing[plural][1])
        if plural in self.absent or self.store.kinds.get(plural, ("", "", False))[1] != version:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if verb == "list":
            return self._list(plural, namespace, name, query)
        if verb == "watch":
            return await self._watch(request, plural, namespace, name)
        if verb == "patch" and sub == "status":
            return self._patch_status(plural, namespace, name, await request.json())
        raise StatusError(405, "MethodNotAllowed", "not here")

    def _list(self, plural: str, namespace: str, name: str, query: Mapping[str, str]) -> web.Response:
        store = self.store
        found = [
            told
            for (within, called), told in sorted(store.objects[plural].items())
            if namespace in ("", within) and name in ("", called)
        ]
        start, version = 0, store.version
        if "continue" in query:
            begun, _, at = query["continue"].partition(":")
            if int(begun) < store.forgotten:
                raise StatusError(410, "Expired", "The provided continue parameter is too old")
            start, version = int(at), int(begun)
        limit = int(query.get("limit", "0")) or len(found)
        kind, api_version, _ = store.kinds[plural]
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(found):
            metadata["continue"] = f"{version}:{start + limit}"
        items = [_without_kind(told) if plural in BUILT_IN else told for told in found[start : start + limit]]
        return web.json_response(
            {"kind": f"{kind}List", "apiVersion": api_version, "metadata": metadata, "items": items}
        )

    async def _watch(self, request: web.Request, plural: str, namespace: str, name: str) -> web.StreamResponse:
        store = self.store
        since = int(request.query.get("resourceVersion") or 0)
        gone = StatusError(410, "Expired", f"too old resource version: {since} ({store.forgotten})")
        expired = since < store.forgotten
        if expired and not self.late_expiry:
            raise gone
        answer = web.StreamResponse(headers={"content-type": "application/json"})
        answer.enable_chunked_encoding()
        watcher = Watcher(plural, namespace, name, request.query.get("allowWatchBookmarks") in ("1", "true"), since)
        store.watchers.append(watcher)
        past = [(kind, told) for at, kind, of, told in store.history if of == plural and watcher.sees(at, told)]
        try:
            await answer.prepare(request)
            if expired:
                await _send(answer, {"type": "ERROR", "object": gone.told})
                return answer
            for kind, told in past:
                await _send(answer, {"type": kind, "object": told})
            with suppress(TimeoutError):
                async with asyncio.timeout(float(request.query.get("timeoutSeconds", "1800"))):
                    while (event := await watcher.queue.get()) is not None:
                        await _send(answer, event)
            return answer
        finally:
            store.watchers.remove(watcher)

    def _patch_status(self, plural: str, namespace: str, name: str, patch: Mapping[str, Any]) -> web.Response:
        told = self.store.objects[plural].get((namespace, name))
        if told is None:
            raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
        wanted = (patch.get("metadata") or {}).get("resourceVersion")
        if wanted and wanted != told["metadata"]["resourceVersion"]:
            raise StatusError(409, "Conflict", "the object has been modified; apply your changes to the latest version")
        made = self.store.put(plural, {**told, "status": {**told.get("status", {}), **patch.get("status", {})}})
        return web.json_response(made)


def _parts(path: str) -> tuple[str, str, str, str, str]:
    """plural, version, namespace, name, subresource."""
    steps = path.strip("/").split("/")
    core = steps[0] == "api"
    version, steps = (steps[1], steps[2:]) if core else ("/".join(steps[1:3]), steps[3:])
    namespace = ""
    if steps[:1] == ["namespaces"] and len(steps) > 2:
        namespace, steps = steps[1], steps[2:]
    plural, name, sub = [*steps, "", "", ""][:3]
    return plural, version, namespace, name, sub


def _without_kind(told: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a list of a built-in kind do not say what they are."""
    return {key: value for key, value in told.items() if key not in ("kind", "apiVersion")}


async def _send(answer: web.StreamResponse, event: Mapping[str, Any]) -> None:
    await answer.write(json.dumps(event).encode() + b"\n")


class Loop:
    """A thread with an event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        """What a coroutine returns there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def close(self) -> None:
        """Ends what runs there, and the thread."""

        async def end() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class ApiServer:
    """The server as tests use it: every method may be called from any thread, and takes effect before it returns."""

    def __init__(self, folder: Path, listen: Callable[[int], socket.socket]) -> None:
        self._loop = Loop()
        self.store = Store()
        self.handler = Handler(self.store, Roles.shipped())
        self._listen = listen
        self._runner: web.AppRunner | None = None
        self.authority, certificate = certificates(folder)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listens, with the objects that it has, at the port that it had."""
        listener = self._listen(self.port)
        self.port = listener.getsockname()[1]
        self._loop.run(self._serve(listener))

    def stop(self) -> None:
        """Vanishes: connections are reset, new ones are refused."""
        if self._runner is not None:
            self._loop.run(self._reset(self._runner))
            self._runner = None

    def close(self) -> None:
        """Ends the thread too."""
        self.stop()
        self._loop.close()

    def kubeconfig(self, folder: Path, token: str = TOKEN) -> Path:
        """A file that lets the agent in."""
        path = folder / "kubeconfig"
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "agent", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def put(self, plural: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Makes or replaces an object, as `kubectl apply` does."""
        return self.do(lambda: self.store.put(plural, told))

    def apply(self, text: str) -> None:
        """The documents of a YAML file."""
        plurals = {kind: plural for plural, (kind, _, _) in self.store.kinds.items()}
        for told in yaml.safe_load_all(text):
            self.put(plurals[told["kind"]], told)

    def delete(self, plural: str, name: str, namespace: str = "default") -> None:
        """Takes an object away."""
        within = namespace if self.store.kinds[plural][2] else ""
        self.do(lambda: self.store.delete(plural, within, name))

    def get(self, plural: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """An object as it is."""
        return self.do(lambda: deepcopy(self.store.objects[plural][namespace, name]))

    def watching(self) -> set[str]:
        """The collections that somebody watches."""
        return self.do(lambda: {each.plural for each in self.store.watchers})

    def asked(self, verb: str, plural: str) -> int:
        """How often; a list that is asked only for the version does not count."""

        def count() -> int:
            asked = [each for each in self.handler.requests if each.query.get("limit") != "1"]
            return sum((each.verb, each.plural) == (verb, plural) for each in asked)

        return self.do(count)

    def do(self, change: Callable[[], T]) -> T:
        """Calls `change` in the server's thread."""

        async def call() -> T:
            return change()

        made: T = self._loop.run(call())
        return made

    async def _reset(self, runner: web.AppRunner) -> None:
        for site in list(runner.sites):
            await site.stop()
        for transport in self.handler.transports:
            with suppress(AttributeError):  # one that is closed already has nothing to be aborted
                transport.abort()
        self.handler.transports.clear()
        await asyncio.sleep(0.01)  # that they learn of it
        await runner.cleanup()

    async def _serve(self, listener: socket.socket) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handler.serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()


def loopback(port: int) -> socket.socket:
    """A listener on 127.0.0.1 of the thread's network namespace."""
    return socket.create_server(("127.0.0.1", port), backlog=64)
