"""Errors of the store.

StoreError
├── PathError       a path given for policies or workloads cannot be used at all
└── KubernetesError a cluster's API cannot be used: no way in, refused, or never reached
"""

from __future__ import annotations


class StoreError(Exception):
    """Anything the store cannot do."""


class PathError(StoreError):
    """The path does not exist or cannot be read; the message says which and what to give instead."""


class KubernetesError(StoreError):
    """The message says which access was tried, what came of it and what to do."""
