"""Where a node's pods are, as the cluster or somebody who runs it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from ...policies.identity import IPNetwork
from ..content import PodNetwork
from .pod import networked
from .resource import Object


def pod_network(
    node: str,
    nodes: Mapping[str, Object],
    pods: Mapping[str, Object],
    prefixes: tuple[IPNetwork, ...] = (),
    interfaces: tuple[str, ...] = (),
) -> PodNetwork:
    """Of this node: `prefixes` if there are any, else what the cluster has set aside for it
    (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/node-v1/#NodeSpec), of which not every plugin
    makes use. Where pods of other nodes have addresses they are nobody's own."""
    found = prefixes or tuple(dict.fromkeys(_podcidrs(nodes.get(node))))
    shared: set[IPNetwork] = set()
    for pod in pods.values():
        if pod["node"] != node and networked(pod):
            addresses = [_address(ip) for ip in pod["ips"]]
            shared |= {each for each in found for address in addresses if address is not None and address in each}
    return PodNetwork(found, tuple(each for each in found if each not in shared), interfaces)


def _podcidrs(node: Object | None) -> Iterator[IPNetwork]:
    for each in (node or {}).get("podCIDRs", ()):
        with suppress(ValueError):
            yield ip_network(each, strict=False)


@lru_cache(1 << 16)  # a cluster has ten thousand pods, and few are new
def _address(ip: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        return ip_address(ip)
    return None
