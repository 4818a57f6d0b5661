"""Which version of each resource Envoy has in force, read off narrow dumps of its configuration. Pure.

https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin#get--config_dump?resource=
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class InForce:
    """What Envoy has of one resource: the version in force (None: nothing) and why it rejected another one."""

    version: str | None
    error: str = ""
    error_version: str = ""


# For each kind of resource the field of a config_dump that lists it, and a mask for its name and versions alone: a dump
# is then small, though Envoy first makes the whole of each resource that is asked for. A listener of which only filter
# chains change goes on under the version it began with (Envoy 1.40): of listeners can only be told whether they are
# there.
_VERSIONED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "TypedExtensionConfig": ("ecds_filters", "version_info,error_state,ecds_filter.name"),
        "Listener": (
            "dynamic_listeners",
            "name,active_state.version_info,warming_state.version_info,error_state",
        ),
        "Cluster": ("dynamic_active_clusters", "version_info,error_state,cluster.name"),
        "RouteConfiguration": ("dynamic_route_configs", "version_info,error_state,route_config.name"),
        "Secret": ("dynamic_active_secrets", "name,version_info,error_state"),
    }
)


def versions_query(kind: str) -> tuple[str, str] | None:
    """The `resource` and `mask` by which a config_dump tells the versions of one kind of resource (the short name of
    its type) and nothing else; None for a kind that no dump lists."""
    return _VERSIONED.get(kind)


def named_query(names: Iterable[str]) -> str:
    """An RE2 over resource names that finds these and no others. A dump that is asked for one `resource` lists the
    filters of one sort only (Envoy 1.40: those for HTTP); the others it lists in whole dumps, narrowed by this."""
    return "^(?:" + "|".join(re.escape(name) for name in sorted(names)) + ")$"


def read_versions(dump: Mapping[str, Any]) -> dict[str, InForce]:
    """By name, from a dump that was asked for as `versions_query` says, or the filters of a whole one."""
    found: dict[str, InForce] = {}
    entries = [entry for section in dump.get("configs", ()) for entry in section.get("ecds_filters", (section,))]
    for entry in entries:
        inner: Mapping[str, Any] = next(
            (entry[key] for key in ("ecds_filter", "cluster", "route_config") if key in entry), {}
        )
        name = entry.get("name") or inner.get("name", "")
        # A listener that waits for what it needs is on its way, and not lost.
        states = (entry.get(state, {}).get("version_info") for state in ("active_state", "warming_state"))
        version = entry.get("version_info") or next(filter(None, states), None)
        error = entry.get("error_state", {})
        found[name] = InForce(version or None, error.get("details", ""), error.get("version_info", ""))
    return found
