"""Whose Envoy a sentence is about."""

from __future__ import annotations


def envoy_of(node: str) -> str:
    """Of a remote node, or (empty) of the agent's own."""
    return f"the Envoy of remote node {node}" if node else "Envoy"
