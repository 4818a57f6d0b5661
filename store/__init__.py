"""Where policies and workloads come from."""

from __future__ import annotations

from .combined import CombinedStore
from .content import ContainerNetwork, Document, PodNetwork, Store, StoreContent
from .directory import DirectoryStore, read_documents, read_policy_tests
from .engine import EngineStore
from .errors import PathError, StoreError
from .watch import FolderWatch

__all__ = [
    "CombinedStore",
    "ContainerNetwork",
    "DirectoryStore",
    "Document",
    "EngineStore",
    "FolderWatch",
    "PathError",
    "PodNetwork",
    "Store",
    "StoreContent",
    "StoreError",
    "read_documents",
    "read_policy_tests",
]
