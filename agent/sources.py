"""Where this node's policies and workloads come from, by its settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..store import CombinedStore, DirectoryStore, EngineStore, Store
from .settings import Settings


def make_store(settings: Settings) -> Store:
    """Two paths, and beside them a cluster and engines; what the paths list comes first."""
    stores: list[Store] = [DirectoryStore(settings.policies, settings.workloads)]
    if settings.kubernetes is not None:
        from ..store.kubernetes import Cluster, KubernetesStore  # who has no cluster need not wait for it

        where = settings.kubernetes
        cluster = Cluster(where.node, where.kubeconfig, where.services)
        stores.append(KubernetesStore(cluster, settings.state_dir / "kubernetes.db"))
    stores += [EngineStore(each, _memory(settings, each)) for each in settings.engines]
    return stores[0] if len(stores) == 1 else CombinedStore(stores)


def _memory(settings: Settings, engine: str) -> Path:
    return settings.state_dir / f"engine-{hashlib.sha256(engine.encode()).hexdigest()[:16]}.json"
