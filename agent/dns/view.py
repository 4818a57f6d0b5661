"""The DNS proxy as the local API shows it. JSON types throughout."""

from __future__ import annotations

from typing import Any

from . import clock
from .names import NameCache
from .proxy import DnsProxy


def dns_counts(proxy: DnsProxy, names: NameCache) -> dict[str, int]:
    """For the metrics: events by name, and how many addresses are "learned" now."""
    return {
        **{str(event): number for event, number in proxy.counters().items()},
        "learned": sum(1 for _ in names.entries()),
    }


def dns_view(proxy: DnsProxy, names: NameCache) -> dict[str, Any]:
    """{"counters": {event: number}, "names": [{"name", "address", "client", "seconds"}]}."""
    now = clock.now()
    return {
        "counters": {str(event): number for event, number in proxy.counters().items()},
        "names": [
            {"name": name, "address": str(address), "client": client, "seconds": round(expires - now)}
            for (client, name, address), expires in sorted(
                names.entries(), key=lambda entry: (entry[0].name, entry[0].client, str(entry[0].address))
            )
        ],
    }
