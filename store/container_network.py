"""The networks of a container engine, from what it tells of them: those on Linux bridges, with their prefixes.

Docker tells `GET /networks` (https://docs.docker.com/reference/api/engine/), Podman `GET /libpod/networks/json`
(https://docs.podman.io/en/latest/_static/api.html), where alone it says what a bridge is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from .content import ContainerNetwork

OPEN_LABEL = "lockgate.unknown-containers"  # `allow`: somebody else's interfaces are on the bridge too
_BRIDGE_OPTION = "com.docker.network.bridge.name"
_SHORT_ID = 12


def to_json(network: ContainerNetwork) -> dict[str, Any]:
    """For `from_json`."""
    return {"name": network.name, "bridge": network.bridge, "subnets": [str(each) for each in network.subnets]}


def from_json(value: Mapping[str, Any]) -> ContainerNetwork:
    """What `to_json` made. Raises KeyError, TypeError or ValueError."""
    return ContainerNetwork(
        str(value["name"]), str(value["bridge"]), tuple(ip_network(each) for each in value["subnets"])
    )


def read_networks(told: Iterable[Mapping[str, Any]]) -> tuple[ContainerNetwork, ...]:
    """Those on bridges whose unknown containers are to be cut off, sorted by name. Raises KeyError, TypeError or
    ValueError when it is not what the APIs say."""
    found = [_docker(each) if "Driver" in each else _podman(each) for each in told]
    return tuple(sorted((each for each in found if each is not None), key=lambda each: each.name))


def _docker(told: Mapping[str, Any]) -> ContainerNetwork | None:
    if told["Driver"] != "bridge" or _is_open(told.get("Labels")):
        return None
    name = (told.get("Options") or {}).get(_BRIDGE_OPTION) or f"br-{told['Id'][:_SHORT_ID]}"
    pools = (told.get("IPAM") or {}).get("Config") or ()
    return _network(told["Name"], name, (each.get("Subnet") for each in pools))


def _podman(told: Mapping[str, Any]) -> ContainerNetwork | None:
    if told["driver"] != "bridge" or _is_open(told.get("labels")):
        return None
    return _network(told["name"], told["network_interface"], (each["subnet"] for each in told.get("subnets") or ()))


def _is_open(labels: Mapping[str, str] | None) -> bool:
    return (labels or {}).get(OPEN_LABEL) == "allow"


def _network(name: str, bridge: str, subnets: Iterable[str | None]) -> ContainerNetwork:
    prefixes: list[IPv4Network | IPv6Network] = [ip_network(each, strict=False) for each in subnets if each]
    return ContainerNetwork(str(name), str(bridge), tuple(prefixes))
