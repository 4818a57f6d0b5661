"""What `lockgate xds` shows: each Envoy, and what it was sent and made of it. Pure; JSON types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from ...policies import PolicyKey
from ...xds import ClientStatus, SyncState, TypeStatus
from ..refusal.containment import Refusal

# The version of a resource that a client's Envoy said it has, when it was last asked: client, type URL, name.
InForceOf = Callable[[ClientStatus, str, str], str | None]
Refusals = Mapping[PolicyKey, Refusal]


def rows(
    clients: Iterable[ClientStatus], nodes: Iterable[str], refused: Mapping[str, Refusals], in_force: InForceOf
) -> list[dict[str, Any]]:
    """Per node and resource type; one line without a type for each of the remote `nodes` that is not connected.
    `refused` has the policies that are kept from an Envoy, by remote node; "" is the agent's own."""
    listed = list(clients)
    found = []
    for client in listed:
        kept = refused.get(client.node if client.remote else "", {})
        found += [_row(client, entry, kept, in_force) for entry in client.types]
    here = {client.node for client in listed if client.remote}
    return found + [_absent(node) for node in nodes if node not in here]


def _row(client: ClientStatus, entry: TypeStatus, kept: Refusals, in_force: InForceOf) -> dict[str, Any]:
    """A policy that is kept from Envoy is a NACK until it is mended, though Envoy took what stands in its place."""
    names = {each.name for each in entry.resources}
    withheld = [f"policy {key}: {refusal.text}" for key, refusal in kept.items() if refusal.resource in names]
    return {
        "node": client.node,
        "remote": client.remote,
        "type": entry.type_url.rpartition(".")[2],
        "state": str(SyncState.NACK if withheld else entry.state),
        "since": _time(entry.since.wall),
        "error": "; ".join([*entry.errors, *withheld]),
        "published": _digest((each.name, each.published) for each in entry.resources),
        "held": _digest((each.name, each.held) for each in entry.resources),
        "resources": [
            {
                "name": resource.name,
                "state": str(resource.state),
                "published": resource.published,
                "held": resource.held,
                "in_force": in_force(client, entry.type_url, resource.name),
                "error": resource.error,
            }
            for resource in entry.resources
        ],
    }


def _absent(node: str) -> dict[str, Any]:
    words = "not connected; it enforces what it had"
    return {
        "node": node,
        "remote": True,
        "type": "-",
        "state": "STALE",
        "since": "-",
        "error": words,
        "published": "",
        "held": "",
        "resources": [],
    }


def _time(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")


def _digest(versions: Iterable[tuple[str, str | None]]) -> str:
    """A version for many resources together: equal when all are."""
    listed = [f"{name}={version}" for name, version in versions if version is not None]
    return sha256("\n".join(listed).encode()).hexdigest()[:8] if listed else ""
