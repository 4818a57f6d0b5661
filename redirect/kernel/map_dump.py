"""What the kernel's maps hold, as records for people. Reads the pins; needs no agent and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...policies.service import Frontend
from .. import layout
from ..errors import NotLoadedError
from ..plan import ANYONE, Verdict
from ..port_prefix import PROTOCOL_NUMBERS, WHOLE, PortPrefix
from .maps import PinnedMap

_PROTOCOLS = {number: protocol.value for protocol, number in PROTOCOL_NUMBERS.items()}
_PORT_BITS = 16


def _policies(folder: Path) -> list[dict[str, Any]]:
    """By policy number, identity and port."""
    with closing(PinnedMap(folder, layout.POLICY)) as pinned:
        entries = pinned.read()
    return [
        {
            "policy": f"{key.policy:08x}",
            "identity": key.identity,
            "peer": "anyone" if key.identity == ANYONE else "",
            "ports": ports_in_words(key.ports),
            "verdict": Verdict(effect.verdict).name.lower(),
            "proxy_port": effect.proxy_port if effect.verdict is Verdict.REDIRECT else None,
        }
        for key, effect in sorted(entries.items())
    ]


def _endpoints(folder: Path) -> list[dict[str, Any]]:
    with closing(PinnedMap(folder, layout.ENDPOINTS)) as pinned:
        entries = pinned.read()
    return [
        {"ifindex": ifindex, "ingress": f"{policies.ingress:08x}", "egress": f"{policies.egress:08x}"}
        for ifindex, policies in sorted(entries.items())
    ]


def _ipcache(folder: Path) -> list[dict[str, Any]]:
    with closing(PinnedMap(folder, layout.IPCACHE)) as pinned:
        entries = pinned.read()
    return [
        {"prefix": str(network), "identity": owner.identity, "ifindex": owner.ifindex}
        for network, owner in sorted(entries.items(), key=lambda each: (each[0].version, each[0]))
    ]


def _services(folder: Path) -> list[dict[str, Any]]:
    """Every address and port with who serves there; nobody: connections are refused."""
    with (
        closing(PinnedMap(folder, layout.SERVICE_FRONTENDS)) as frontends,
        closing(PinnedMap(folder, layout.SERVICE_BACKENDS)) as serving,
    ):
        known = [each for each in frontends.read() if isinstance(each, Frontend)]
        backends = serving.read()
    found = []
    for frontend in sorted(known, key=lambda each: (each.ip.version, each.ip, each.port, each.protocol)):
        served = [(key.backend, weight) for key, weight in backends.items() if key.frontend == frontend]
        served.sort(key=lambda each: (each[0].ip.version, each[0].ip, each[0].port))
        found += [
            {"address": str(frontend), "backend": str(backend), "weight": weight} for backend, weight in served
        ] or [{"address": str(frontend), "backend": "nobody", "weight": 0}]
    return found


MAPS: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = MappingProxyType(
    {"endpoints": _endpoints, "policy": _policies, "ipcache": _ipcache, "services": _services}
)


def read_map(pin_dir: Path, name: str) -> list[dict[str, Any]]:
    """The entries of one of MAPS, sorted; JSON types.

    Raises:
        NotLoadedError: no data path is pinned there, or not for this user to see.
        PinConflictError: it is another version's.
    """
    folder = pin_dir / "maps"
    if os.geteuid() != 0:
        raise NotLoadedError(f"{folder} is for root only; run it with sudo")
    if not (folder / layout.POLICY.name).exists():
        raise NotLoadedError(
            f"{folder} holds no maps: no agent has loaded a data path for this --run-dir; start one, or give another"
        )
    if name == "services" and not (folder / layout.SERVICE_FRONTENDS.name).exists():
        return []  # no service has had an address yet
    return MAPS[name](folder)


def ports_in_words(ports: PortPrefix) -> str:
    """any, any/TCP, 80/TCP, 8000-8191/TCP."""
    if not ports.length:
        return "any"
    protocol = _PROTOCOLS.get(ports.protocol, str(ports.protocol))
    free = WHOLE - ports.length
    if free >= _PORT_BITS:
        return f"any/{protocol}"
    last = ports.port | (1 << free) - 1
    return f"{ports.port}/{protocol}" if last == ports.port else f"{ports.port}-{last}/{protocol}"
