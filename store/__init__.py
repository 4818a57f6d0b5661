"""Where policies and workloads come from."""

from __future__ import annotations

from .content import Document, Store, StoreContent
from .directory import DirectoryStore, read_documents, read_policy_tests
from .errors import PathError, StoreError

__all__ = [
    "DirectoryStore",
    "Document",
    "PathError",
    "Store",
    "StoreContent",
    "StoreError",
    "read_documents",
    "read_policy_tests",
]
