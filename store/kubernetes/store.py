"""A cluster as a store: policies, pods, services and secrets from the Kubernetes API, as they come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...policies.identity import IPNetwork
from ..content import Document, PodNetwork, StoreContent
from ..errors import KubernetesError
from .access import Access, open_access
from .condition import Conditions
from .document import as_written, secrets_named, source_of
from .follower import Follower
from .known import Known
from .memory import Memory
from .node import Nodes
from .pod import Pods, networked, uid_of
from .pod_network import pod_network
from .pod_process import PodProcess, find
from .resource import NAMESPACES, NODES, PODS, POLICIES, SERVICES, SLICES, WATCHED, Resource, secret
from .service import Services

_TRIES = 3  # to reach the API before an agent that knows nothing gives up
_PAUSE_SECONDS = 1.0  # between these
_GATHER_SECONDS = 0.01  # one change of a cluster is often several objects
_REST = 4.0  # how often the time that the last content took passes before the next is made
_FIRST_SEARCH, _LONGEST_SEARCH = 0.1, 2.0  # seconds between looks for the process of a pod that has none yet
_ALIVE_SECONDS = 1.0  # how often the processes of pods are looked at


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which API, and which of its nodes this is. `services`: sockets of this node are led to the services' backends.
    `closed`: pods of this node that are not known are to be cut off; `pod_prefixes` and `pod_interfaces` say more of
    these than the API does."""

    node: str
    kubeconfig: Path | None = None  # None: the pod's own service account
    services: bool = True
    closed: bool = True
    pod_prefixes: tuple[IPNetwork, ...] = ()
    pod_interfaces: tuple[str, ...] = ()


class KubernetesStore:
    """The objects of a cluster that matter to one node.

    Nothing is told before every collection was listed once, here or by an agent before this one (`memory`). While the
    API is away what was known stays, and so does what an optional collection held that the cluster has no more.
    """

    def __init__(self, cluster: Cluster, memory: Path) -> None:
        self._cluster = cluster
        self._memory = Memory(memory)
        self._news = asyncio.Event()
        self._followers = {each.title: self._follower(each) for each in WATCHED}
        self._secrets: dict[str, Follower] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, PodProcess] = {}
        self._search = _FIRST_SEARCH
        self._written: dict[str, tuple[dict[str, Any], Document]] = {}
        self._pods, self._services, self._nodes = Pods(), Services(), Nodes()
        self._pod_network: PodNetwork | None = None
        self._told = StoreContent((), ())
        self._seen: dict[str, object] = {}
        self._cost = 0.0  # seconds that the last content took
        self._conditions = Conditions(self._access, self._known_of, self._document_of)

    async def read(self) -> StoreContent:
        """Everything once, or what an earlier agent knew.

        Raises:
            KubernetesError: something cannot be listed, and no earlier agent knew it.
        """
        recalled = await asyncio.to_thread(self._memory.recall)
        for attempt in range(_TRIES):
            await asyncio.gather(*(each.look() for each in self._followers.values() if not _listed(each)))
            missing = [each for title, each in self._followers.items() if not _listed(each) and title not in recalled]
            if not missing:
                break
            if attempt + 1 < _TRIES:
                await asyncio.sleep(_PAUSE_SECONDS)
        else:
            raise KubernetesError(_cannot_start(missing))
        for title, follower in self._followers.items():
            if not _listed(follower) or follower.absent:
                follower.known.objects = recalled.get(title, {})
        for namespace, name in self._named():
            follower = self._secrets_follower(namespace, name)
            await follower.look()
            if not _listed(follower):
                follower.known.objects = recalled.get(follower.resource.title, {})
        await asyncio.to_thread(self._look_for_processes)
        self._told = self._content()
        await asyncio.to_thread(self._memory.keep, self._to_keep())
        return self._told

    async def changes(self) -> AsyncIterator[StoreContent]:
        """Content after each change, of the cluster or of the processes of this node's pods."""
        last = self._told
        try:
            for title, follower in {**self._followers, **self._secrets}.items():
                self._following[title] = asyncio.create_task(follower.run(), name=f"kubernetes {title}")
            self._following["conditions"] = asyncio.create_task(self._conditions.run(), name="kubernetes conditions")
            while True:
                self._follow_secrets()
                if await self._until_news() and (content := self._content()) != last:
                    last = content
                    yield content
                    await asyncio.to_thread(self._memory.keep, self._to_keep())
        finally:
            following, self._following = list(self._following.values()), {}
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            self._memory.close()

    def judged(self, verdicts: Iterable[tuple[Document, str]]) -> None:
        """What is wrong with the policies in these documents (empty: nothing), for their authors to see."""
        self._conditions.judged(verdicts)

    async def _until_news(self) -> bool:
        """False when it turned out that nothing is new. Where something always is, there is more to do than this."""
        lost = bool(self._lost())
        self._search = min(2 * self._search, _LONGEST_SEARCH) if lost else _FIRST_SEARCH
        with suppress(TimeoutError):
            async with asyncio.timeout(self._search if lost else _ALIVE_SECONDS):
                await self._news.wait()
        news = self._news.is_set()
        if news:
            self._search = _FIRST_SEARCH
            await asyncio.sleep(max(_GATHER_SECONDS, _REST * self._cost))
            self._news.clear()
        for task in self._following.values():
            if task.done():
                task.result()  # none of them ends, unless by a fault of its own
        return await asyncio.to_thread(self._look_for_processes) or news

    def _access(self) -> Access:
        return open_access(self._cluster.kubeconfig)

    def _follower(self, resource: Resource) -> Follower:
        return Follower(resource, self._access, self._news.set)

    def _objects(self, resource: Resource) -> dict[str, dict[str, Any]]:
        return self._followers[resource.title].known.objects

    def _known_of(self, kind: str) -> Known:
        return next(each.known for each in self._followers.values() if each.resource.kind == kind)

    def _document_of(self, source: str) -> Document | None:
        known = self._written.get(source)
        return known[1] if known is not None else None

    # Secrets: one by one, those that policies name.

    def _named(self) -> set[tuple[str, str]]:
        return {ref for each in POLICIES for told in self._objects(each).values() for ref in secrets_named(told)}

    def _secrets_follower(self, namespace: str, name: str) -> Follower:
        resource = secret(namespace, name)
        if resource.title not in self._secrets:
            self._secrets[resource.title] = self._follower(resource)
        return self._secrets[resource.title]

    def _follow_secrets(self) -> None:
        wanted = {secret(namespace, name).title: (namespace, name) for namespace, name in self._named()}
        for title in self._secrets.keys() - wanted.keys():
            del self._secrets[title]
            if (task := self._following.pop(title, None)) is not None:
                task.cancel()
        for title, ref in wanted.items():
            if title not in self._following:
                follower = self._secrets_follower(*ref)
                self._following[title] = asyncio.create_task(follower.run(), name=f"kubernetes {title}")

    # Processes of this node's pods.

    def _here(self) -> set[str]:
        pods = self._objects(PODS).values()
        return {uid_of(pod) for pod in pods if pod["node"] == self._cluster.node and networked(pod) and uid_of(pod)}

    def _lost(self) -> set[str]:
        return self._here() - self._processes.keys()

    def _look_for_processes(self) -> bool:
        """True when it is not the same processes as before, as they are when they cannot be looked at."""
        here, before = self._here(), self._processes
        with suppress(OSError):
            kept = {uid: each for uid, each in before.items() if uid in here and each.lives}
            self._processes = kept | find(here - kept.keys())
        return self._processes != before

    # What it all comes to.

    def _content(self) -> StoreContent:
        began = time.monotonic()
        content = self._made()
        self._cost = time.monotonic() - began
        return content

    def _made(self) -> StoreContent:
        pods, node = self._objects(PODS), self._cluster.node
        services, slices = self._objects(SERVICES), self._objects(SLICES)
        if self._differs("pods", PODS, NAMESPACES, more=self._processes):
            self._pods.update(pods, self._objects(NAMESPACES), node, self._processes)
        if self._differs("services", SERVICES, SLICES, PODS):
            self._services.update(services, slices, pods, node, addresses=self._cluster.services)
        if self._differs("nodes", NODES, SERVICES, SLICES):
            self._nodes.update(self._objects(NODES), services, slices)
        problems = [*_troubles([*self._followers.values(), *self._secrets.values()]), *self._pods.problems]
        problems += self._services.problems
        if node not in self._objects(NODES):
            problems.append(
                f"kubernetes: no node is called {node}, so no pod is taken for one of this node; write its name as in "
                "'kubernetes: {node: NAME}', or set NODE_NAME"
            )
        if self._memory.problem:
            problems.append(self._memory.problem)
        workloads = (*self._nodes.documents, *self._pods.documents, *self._services.documents)
        if self._cluster.closed and self._differs("where pods are", NODES, PODS):
            of_node = self._cluster.pod_prefixes, self._cluster.pod_interfaces
            self._pod_network = pod_network(node, self._objects(NODES), pods, *of_node)
        return StoreContent(self._policies(), workloads, tuple(problems), pods=self._pod_network)

    def _differs(self, what: str, *resources: Resource, more: object = None) -> bool:
        """True when something is not as it was when this was asked last: going through ten thousand pods takes time."""
        now = [self._followers[each.title].known.changes for each in resources], more
        before, self._seen[what] = self._seen.get(what), now
        return now != before

    def _policies(self) -> tuple[Document, ...]:
        before, self._written = self._written, {}
        found = []
        for follower in (*(self._followers[each.title] for each in POLICIES), *self._secrets.values()):
            for key, told in sorted(follower.known.objects.items()):
                place = source_of(follower.resource.kind, key)
                known = before.get(place)
                if known is None or known[0] is not told:
                    document = as_written(key, told)
                    known = told, known[1] if known is not None and known[1] == document else document
                self._written[place] = known
                found.append(known[1])
        return tuple(found)

    def _to_keep(self) -> dict[str, dict[str, dict[str, Any]]]:
        followers = {**self._followers, **self._secrets}
        return {title: dict(each.known.objects) for title, each in followers.items()}


def _listed(follower: Follower) -> bool:
    return follower.known.version is not None or follower.absent


def _cannot_start(missing: list[Follower]) -> str:
    reasons = "; ".join(sorted({each.problem for each in missing}))
    what = ", ".join(each.resource.title for each in missing)
    return (
        f"kubernetes: {what} cannot be listed, and no agent before this one knew them: {reasons}. Nothing was changed "
        "on this node; start the agent again when the API answers (compose/kubernetes has the rights that it needs)"
    )


def _troubles(followers: list[Follower]) -> list[str]:
    """One sentence for all that fail for the same reason."""
    failing: dict[str, list[str]] = {}
    for each in followers:
        if each.problem:
            failing.setdefault(each.problem, []).append(each.resource.title)
    found = [
        f"kubernetes: {', '.join(titles)} cannot be followed ({reason}); what was known of them stays enforced"
        for reason, titles in failing.items()
    ]
    if absent := [each.resource.title for each in followers if each.absent]:
        found.append(
            f"kubernetes: the cluster has no {', '.join(absent)}: apply compose/kubernetes/crds.yaml to have policies "
            "of that kind (those that were known stay enforced)"
        )
    return found
