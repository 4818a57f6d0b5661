"""Where this node's policies and workloads come from, by its settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...store import CombinedStore, DirectoryStore, EngineStore, Store
from ..settings import DROP, Settings

if TYPE_CHECKING:
    from ...store.kubernetes import KubernetesStore


def make_store(settings: Settings) -> tuple[Store, KubernetesStore | None]:
    """Two paths, and beside them a cluster, which is returned too, and engines; what the paths list comes first."""
    cluster: KubernetesStore | None = None
    stores: list[Store] = [DirectoryStore(settings.policies, settings.workloads)]
    if settings.kubernetes is not None:
        from ...store.kubernetes import Cluster, KubernetesStore  # who has no cluster need not wait for it

        where = settings.kubernetes
        which = Cluster(
            where.node,
            where.kubeconfig,
            where.services,
            closed=settings.unknown_pods == DROP,
            pod_prefixes=where.pod_prefixes,
            pod_interfaces=where.pod_interfaces,
        )
        cluster = KubernetesStore(which, settings.state_dir / "kubernetes.db")
        stores.append(cluster)
    closed = settings.unknown_containers == DROP
    stores += [EngineStore(each, _memory(settings, each), closed=closed) for each in settings.engines]
    return (stores[0] if len(stores) == 1 else CombinedStore(stores)), cluster


def _memory(settings: Settings, engine: str) -> Path:
    return settings.state_dir / f"engine-{hashlib.sha256(engine.encode()).hexdigest()[:16]}.json"
