"""The ends of a flow, who is behind an address, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Any

from ...envoy.config.access_log import SocketEnd
from ...policies.identity import Reserved


class FlowVerdict(StrEnum):
    """DENIED: Envoy refused the request. LOGGED: it passed, with a header that its policy notes (LOG). DROPPED: the
    kernel ended packets."""

    DENIED = "denied"
    LOGGED = "logged"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class FlowEnd:
    """One end of a flow; `endpoint` is empty for an address that is no workload's, `identity` 0 when not known."""

    ip: str
    port: int
    endpoint: str = ""
    identity: int = 0
    labels: tuple[str, ...] = ()
    of_node: bool = False  # processes of the node, whose address is not theirs alone

    def __str__(self) -> str:
        """Its name, or its address and what kind of address that is. Messages that have no ports show none."""
        host = self.endpoint or self.ip
        place = host if not self.port else f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        kind = next((each for each in self.labels if each.startswith("reserved:")), "")
        return f"{place} ({kind})" if kind and not self.endpoint else place

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return {
            "ip": self.ip,
            "port": self.port,
            "endpoint": self.endpoint,
            "identity": self.identity,
            "labels": list(self.labels),
        }


class Directory:
    """Who is behind an address, from what the local API says of endpoints and identities."""

    def __init__(
        self, endpoints: Iterable[Mapping[str, Any]] = (), identities: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        entries = list(endpoints)
        self._endpoints = {ip: entry for entry in entries for ip in entry["ips"]}
        self._of_node = {entry["id"]: entry for entry in entries if entry.get("cgroup")}
        self._by_identity: dict[int, list[Mapping[str, Any]]] = {}
        for entry in entries:
            self._by_identity.setdefault(entry["identity"], []).append(entry)
        self._prefixes: dict[IPv4Network | IPv6Network, Mapping[str, Any]] = {
            ip_network(prefix): identity for identity in identities for prefix in identity["prefixes"]
        }
        self._lengths = sorted({(network.version, network.prefixlen) for network in self._prefixes}, reverse=True)

    def end(self, address: SocketEnd, identity: int = 0) -> FlowEnd:
        """The end with its name and identity, as far as they are known. Who came with the node's address was given it
        by the node, and is known by `identity`, which Envoy has gone by."""
        found = self._at(address)
        if found.identity != Reserved.HOST or not (same := self._by_identity.get(identity)):
            return found
        name = same[0]["endpoint"] if len(same) == 1 else ""
        return FlowEnd(found.ip, found.port, name, identity, tuple(same[0]["labels"]))

    def knows(self, end: str) -> bool:
        """False for what nobody here is called: the name of an endpoint, whole or without its namespace, a label of an
        endpoint or of an identity. Any address or prefix may be somebody's, and who knows nobody cannot tell."""
        try:
            ip_interface(end)
        except ValueError:
            pass
        else:
            return True
        called = {entry["endpoint"] for entries in self._by_identity.values() for entry in entries}
        if not called:
            return True
        labels = {label for entries in self._by_identity.values() for entry in entries for label in entry["labels"]}
        labels |= {label for identity in self._prefixes.values() for label in identity["labels"]}
        return end in called or end in labels or end in {each.rpartition("/")[2] for each in called}

    def of_node(self, number: int, address: SocketEnd) -> FlowEnd | None:
        """The end at processes of the node that are an endpoint with this number."""
        entry = self._of_node.get(number)
        if entry is None:
            return None
        return FlowEnd(
            str(address.ip), address.port, entry["endpoint"], entry["identity"], tuple(entry["labels"]), True
        )

    def _at(self, address: SocketEnd) -> FlowEnd:
        ip = str(address.ip)
        endpoint = self._endpoints.get(ip)
        if endpoint is not None:
            labels = tuple(endpoint["labels"])
            return FlowEnd(ip, address.port, endpoint["endpoint"], endpoint["identity"], labels)
        for version, length in self._lengths:
            if version == address.ip.version:
                identity = self._prefixes.get(ip_network((address.ip, length), strict=False))
                if identity is not None:
                    return FlowEnd(ip, address.port, "", identity["identity"], tuple(identity["labels"]))
        return FlowEnd(ip, address.port)
