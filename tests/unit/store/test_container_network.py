"""From what an engine tells of its networks to the bridges of containers."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from lockgate.store import ContainerNetwork
from lockgate.store.container_network import from_json, read_networks, to_json


def docker(**more: Any) -> dict[str, Any]:
    """As `GET /networks` of Docker, shortened."""
    return {
        "Name": "shop_default",
        "Id": "12d2eecd73535333bf223dd824ef0415",
        "Driver": "bridge",
        "IPAM": {"Driver": "default", "Config": [{"Subnet": "172.18.0.0/16"}, {"Subnet": "fd00:77::/64"}]},
        "Options": {},
        "Labels": {},
    } | more


def podman(**more: Any) -> dict[str, Any]:
    """As `GET /libpod/networks/json` of Podman, shortened."""
    return {
        "name": "podman",
        "driver": "bridge",
        "network_interface": "cni-podman0",
        "subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}],
    } | more


SUBNETS = (ip_network("172.18.0.0/16"), ip_network("fd00:77::/64"))


def test_a_network_of_docker() -> None:
    assert read_networks([docker()]) == (ContainerNetwork("shop_default", "br-12d2eecd7353", SUBNETS),)
    named = {"com.docker.network.bridge.name": "docker0"}
    assert read_networks([docker(Options=named)])[0].bridge == "docker0"


def test_a_network_of_podman() -> None:
    assert read_networks([podman()]) == (ContainerNetwork("podman", "cni-podman0", (ip_network("10.88.0.0/16"),)),)
    assert read_networks([podman(subnets=None)])[0].subnets == ()


@pytest.mark.parametrize(
    "told",
    [
        docker(Driver="macvlan"),
        docker(Driver="host", IPAM={"Config": None}),
        docker(Labels={"lockgate.unknown-containers": "allow"}),
        podman(driver="ipvlan"),
        podman(labels={"lockgate.unknown-containers": "allow"}),
    ],
)
def test_networks_that_are_not_guarded(told: dict[str, Any]) -> None:
    assert read_networks([told]) == ()


@pytest.mark.parametrize("broken", [{"Driver": "bridge"}, podman(subnets=[{"subnet": "x"}]), {}])
def test_what_is_no_network(broken: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        read_networks([broken])


def test_what_is_remembered() -> None:
    for network in read_networks([docker(), podman()]):
        assert from_json(to_json(network)) == network
