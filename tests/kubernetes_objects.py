"""What an API server of Kubernetes for tests keeps: objects, their history, and who watches them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

BUILT_IN = {
    "pods": ("Pod", "v1", True),
    "namespaces": ("Namespace", "v1", False),
    "nodes": ("Node", "v1", False),
    "services": ("Service", "v1", True),
    "secrets": ("Secret", "v1", True),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io/v1", True),
    "networkpolicies": ("NetworkPolicy", "networking.k8s.io/v1", True),
}
CRDS = Path(__file__).parents[1] / "compose" / "kubernetes" / "crds.yaml"


def custom_kinds() -> dict[str, tuple[str, str, bool]]:
    """The collections that crds.yaml defines."""
    found = {}
    for each in yaml.safe_load_all(CRDS.read_text()):
        spec = each["spec"]
        version = f"{spec['group']}/{spec['versions'][0]['name']}"
        found[spec["names"]["plural"]] = (spec["names"]["kind"], version, spec["scope"] == "Namespaced")
    return found


@dataclass(eq=False)
class Watcher:
    plural: str
    namespace: str
    name: str
    bookmarks: bool
    since: int
    queue: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)

    def sees(self, version: int, told: Mapping[str, Any]) -> bool:
        """Nothing that is no later than where it began, even if that is in the future."""
        metadata = told["metadata"]
        here = self.namespace in ("", metadata.get("namespace", "")) and self.name in ("", metadata["name"])
        return here and version > self.since


class Store:
    """Objects, versions and history. For the server's thread only."""

    def __init__(self) -> None:
        self.kinds = {**BUILT_IN, **custom_kinds()}
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {plural: {} for plural in self.kinds}
        self.version = 1000
        self.forgotten = 1000  # watches from an older version get 410
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []  # version, type, plural, object
        self.watchers: list[Watcher] = []

    def put(self, plural: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Makes or replaces an object. Raises ValueError for what a server would refuse."""
        _check(plural, told)
        made = deepcopy(dict(told))
        kind, version, namespaced = self.kinds[plural]
        metadata = made.setdefault("metadata", {})
        if namespaced:
            metadata.setdefault("namespace", "default")
        key = metadata.get("namespace", "") if namespaced else "", metadata["name"]
        before = self.objects[plural].get(key)
        self.version += 1
        metadata["uid"] = before["metadata"]["uid"] if before else str(uuid.uuid4())
        metadata.setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        metadata["resourceVersion"] = str(self.version)
        metadata["managedFields"] = [{"manager": "kubectl", "operation": "Update", "time": str(self.version)}]
        made |= {"apiVersion": version, "kind": kind}
        self.objects[plural][key] = made
        self._tell("MODIFIED" if before else "ADDED", plural, made)
        return made

    def delete(self, plural: str, namespace: str, name: str) -> None:
        """Takes an object away. Raises KeyError."""
        gone = deepcopy(self.objects[plural].pop((namespace, name)))
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", plural, gone)

    def _tell(self, kind: str, plural: str, told: dict[str, Any]) -> None:
        told = deepcopy(told)
        self.history.append((self.version, kind, plural, told))
        for watcher in self.watchers:
            if watcher.plural == plural and watcher.sees(self.version, told):
                watcher.queue.put_nowait({"type": kind, "object": told})

    def forget(self) -> None:
        """What happened so far."""
        self.forgotten = self.version
        self.history.clear()

    def backup(self) -> tuple[Any, ...]:
        """The state of now."""
        return self.version, deepcopy(self.objects), self.forgotten, list(self.history)

    def set_back(self, backup: tuple[Any, ...]) -> None:
        """To an earlier state, as an administrator does with etcd's."""
        self.version, self.objects, self.forgotten, self.history = backup
        self.end_watches()

    def bookmark(self) -> None:
        """Tells all who want to know that nothing was missed."""
        for watcher in self.watchers:
            if watcher.bookmarks and self.version > watcher.since:
                kind, version, _ = self.kinds[watcher.plural]
                told = {"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": str(self.version)}}
                watcher.queue.put_nowait({"type": "BOOKMARK", "object": told})

    def end_watches(self) -> None:
        """As a server does when their time is over."""
        for watcher in self.watchers:
            watcher.queue.put_nowait(None)

    def disturb(self, events: Iterable[dict[str, Any]], plural: str) -> None:
        """Sends what no object stands for."""
        for watcher in self.watchers:
            if watcher.plural == plural:
                for event in events:
                    watcher.queue.put_nowait(event)


def _check(plural: str, told: Mapping[str, Any]) -> None:
    """What every server requires of the kinds that tests write, and they would forget."""
    spec, status = told.get("spec") or {}, told.get("status") or {}
    if plural == "pods" and not (spec.get("containers") and all(each.get("image") for each in spec["containers"])):
        raise ValueError("spec.containers: a container with an image is required")
    if plural == "pods" and [each["ip"] for each in status.get("podIPs", ())][:1] != [
        *filter(None, [status.get("podIP")])
    ]:
        raise ValueError("status.podIP: must be the first of podIPs")
    if plural == "services" and spec.get("clusterIPs", [])[:1] != [*filter(None, [spec.get("clusterIP")])]:
        raise ValueError("spec.clusterIP: must be the first of clusterIPs")
    if plural == "endpointslices" and told.get("addressType") not in ("IPv4", "IPv6", "FQDN"):
        raise ValueError("addressType: required")


class StatusError(Exception):
    """A `kind: Status`."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.told |= {"reason": reason, "message": message}

    def answer(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """As HTTP."""
        return web.json_response(self.told, status=int(str(self.told["code"])), headers=headers)
