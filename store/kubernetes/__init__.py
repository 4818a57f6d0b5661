"""The Kubernetes API as a store."""

from __future__ import annotations

from .store import Cluster, KubernetesStore

__all__ = ["Cluster", "KubernetesStore"]
