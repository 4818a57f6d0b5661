"""The store against a real API server: long lists, a history that is compacted, tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from lockgate.redirect.kernel import netns
from lockgate.store.content import StoreContent
from lockgate.store.kubernetes import Cluster, KubernetesStore
from lockgate.store.kubernetes import api as api_module
from lockgate.store.kubernetes.access import open_access
from lockgate.store.kubernetes.api import Api
from lockgate.store.kubernetes.known import ExpiredError, Known
from lockgate.store.kubernetes.resource import CILIUM, PODS, Resource
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.e2e.cluster_node import NODE

T = TypeVar("T")
MANY = 2500  # policies


def within(api: RealApi, scenario: Callable[[], Awaitable[T]]) -> T:
    """Runs it in the network of the node."""

    async def run() -> T:
        return await scenario()

    return netns.run_in(api.plane.where.path, lambda: asyncio.run(run()))


def store(api: RealApi, folder: Path) -> KubernetesStore:
    return KubernetesStore(Cluster(NODE, api.kubeconfig(folder)), folder / "memory.db")


def names(content: StoreContent) -> set[str]:
    prefix = "kubernetes:CiliumNetworkPolicy/crowd/"
    return {each.source.removeprefix(prefix) for each in content.policies if each.source.startswith(prefix)}


@pytest.fixture(scope="module")
def crowd(api: RealApi) -> Iterator[set[str]]:
    """Thousands of policies in a namespace of their own."""
    api.put("namespaces", {"metadata": {"name": "crowd"}})
    made = {f"p{number}" for number in range(MANY)}
    spec = {"endpointSelector": {"matchLabels": {"app": "none"}}, "ingress": [{}]}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: api.put("ciliumnetworkpolicies", policy(name, spec)), made))
    yield made
    with suppress(KeyError):
        api.ask("DELETE", "/apis/cilium.io/v2/namespaces/crowd/ciliumnetworkpolicies")
        api.delete("namespaces", "crowd")


def policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "crowd"}, "spec": spec}


def test_thousands_of_policies_come_in_pages(api: RealApi, crowd: set[str], tmp_path: Path) -> None:
    before = api.asked("list", "ciliumnetworkpolicies")
    content = within(api, store(api, tmp_path).read)
    assert names(content) == crowd
    assert [each for each in content.problems if "cannot be followed" in each] == []
    assert api.asked("list", "ciliumnetworkpolicies") - before >= MANY / api_module.PAGE


def test_a_list_whose_rest_was_compacted_is_asked_for_again(
    api: RealApi, crowd: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the second page is 410, and what was read of the first one is not taken for the whole."""
    real = Api._ask
    pages: list[str] = []

    def counted(self: Api, method: str, path: str, query: dict[str, str], *more: Any) -> Any:
        if path.endswith("/ciliumnetworkpolicies"):
            pages.append(query.get("continue", ""))
            if len(pages) == 2:
                api.put("ciliumnetworkpolicies", policy("p0", {"endpointSelector": {}, "ingress": [{}]}))
                api.plane.compact()
        return real(self, method, path, query, *more)

    monkeypatch.setattr(Api, "_ask", counted)
    content = within(api, store(api, tmp_path).read)
    assert names(content) == crowd
    assert pages.count("") == 2, "it was begun anew"


def test_a_watch_from_a_version_that_is_forgotten(api: RealApi, tmp_path: Path) -> None:
    async def watch(resource: Resource) -> None:
        known = Known(resource)
        async with Api(open_access(api.kubeconfig(tmp_path))) as session:
            async for events in session.watch(resource, "1", 20):
                for event in events:
                    known.apply(event)

    api.plane.compact()
    for resource in (CILIUM, PODS):
        with pytest.raises(ExpiredError):
            within(api, lambda of=resource: watch(of))  # type: ignore[misc]


def test_bookmarks_come_and_move_the_version(api: RealApi, tmp_path: Path) -> None:
    """At least one comes before the server ends a watch."""

    async def watch() -> tuple[str, str]:
        known = Known(CILIUM)
        async with Api(open_access(api.kubeconfig(tmp_path))) as session:
            known.replace(*await session.all(CILIUM))
            began = str(known.version)
            api.put("namespaces", {"metadata": {"name": "later", "labels": {"at": began}}})
            async for events in session.watch(CILIUM, began, 10):
                for event in events:
                    known.apply(event)
        return began, str(known.version)

    began, ended = within(api, watch)
    assert int(ended) > int(began)
