"""Where a node's pods are."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from lockgate.store.content import PodNetwork
from lockgate.store.kubernetes.pod_network import pod_network
from lockgate.store.kubernetes.resource import NODES, PODS, Object
from lockgate.tests.unit.store.test_kubernetes_objects import pod, told

OWN, OTHERS, SIX = (ip_network(each) for each in ("10.244.1.0/24", "10.244.2.0/24", "fd00:1::/64"))
POOL = ip_network("10.244.0.0/16")


def node(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def nodes(**spec: Any) -> dict[str, dict[str, Any]]:
    return told(NODES, node("here", **spec), node("other", podCIDRs=[str(OTHERS)]))


@pytest.mark.parametrize(
    ("spec", "prefixes"),
    [
        ({"podCIDRs": [str(OWN), str(SIX)], "podCIDR": str(OWN)}, (OWN, SIX)),
        ({"podCIDR": str(OWN)}, (OWN,)),
        ({"podCIDRs": ["nonsense", str(OWN), str(OWN)]}, (OWN,)),
        ({}, ()),
    ],
)
def test_what_the_cluster_says(spec: dict[str, Any], prefixes: tuple[Any, ...]) -> None:
    assert pod_network("here", nodes(**spec), {}) == PodNetwork(prefixes, prefixes)
    assert pod_network("nobody", nodes(**spec), {}) == PodNetwork(())


@pytest.mark.parametrize(
    ("elsewhere", "shared"),
    [
        (pod("there", "10.244.1.9", node="other"), True),
        (pod("there", "10.244.2.9", node="other"), False),
        (pod("there", "10.244.1.9", node="here"), False),
        (pod("there", "10.244.1.9", node="other", phase="Succeeded"), False),
        (pod("there", "10.244.1.9", node="other", hostNetwork=True), False),
        (pod("there", "no-address", node="other"), False),
    ],
)
def test_not_every_plugin_makes_use_of_it(elsewhere: Object, shared: bool) -> None:
    """Then pods of other nodes have addresses there, and nobody may say that it is only this node's."""
    found = pod_network("here", nodes(podCIDRs=[str(OWN), str(SIX)]), told(PODS, dict(elsewhere)))
    assert found.prefixes == (OWN, SIX)
    assert found.own == ((SIX,) if shared else (OWN, SIX))


def test_what_somebody_says() -> None:
    pods = told(PODS, pod("there", "10.244.2.9", node="other"))
    assert pod_network("here", nodes(podCIDR=str(OWN)), pods, (POOL,), ("cali",)) == PodNetwork((POOL,), (), ("cali",))
