"""Errors of the store.

StoreError
└── PathError       a path given for policies or workloads cannot be used at all
"""

from __future__ import annotations


class StoreError(Exception):
    """Anything the store cannot do."""


class PathError(StoreError):
    """The path does not exist or cannot be read; the message says which and what to give instead."""
