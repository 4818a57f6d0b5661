"""Where this node's policies and workloads come from, by its settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..store import CombinedStore, DirectoryStore, EngineStore, Store
from .settings import Settings


def make_store(settings: Settings) -> Store:
    """Two paths, and the engines whose containers are workloads too; what the paths list comes first."""
    paths = DirectoryStore(settings.policies, settings.workloads)
    if not settings.engines:
        return paths
    return CombinedStore([paths, *(EngineStore(each, _memory(settings, each)) for each in settings.engines)])


def _memory(settings: Settings, engine: str) -> Path:
    return settings.state_dir / f"engine-{hashlib.sha256(engine.encode()).hexdigest()[:16]}.json"
