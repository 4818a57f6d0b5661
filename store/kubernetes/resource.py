"""What is asked of a cluster's API, and which part of an object matters here.

https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

Object: TypeAlias = Mapping[str, Any]  # as the API tells it, or what `Resource.essence` left of it


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection of the API. `essence` keeps of an object what matters, so that news of the rest is none; `optional`
    are collections that a cluster may do without; `other_version` is one that some clusters have in its place."""

    kind: str
    api_version: str
    plural: str
    essence: Callable[[Object], dict[str, Any]]
    optional: bool = False
    namespace: str = ""  # with `name`, of a collection of one object
    name: str = ""
    other_version: str = ""

    @property
    def path(self) -> str:
        """Of the collection."""
        root = "/apis" if "/" in self.api_version else "/api"
        within = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{root}/{self.api_version}{within}/{self.plural}"

    @property
    def selection(self) -> dict[str, str]:
        """The query that leaves of the collection what is asked for."""
        return {"fieldSelector": f"metadata.name={self.name}"} if self.name else {}

    @property
    def title(self) -> str:
        """For people: `pods`, `secret default/token`."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.name else self.plural

    def in_other_version(self) -> Resource:
        """The same collection, asked for in the other version of the API."""
        return replace(self, api_version=self.other_version, other_version=self.api_version)

    def told(self, told: Object) -> tuple[str, dict[str, Any]]:
        """The key (namespace/name, or the name alone) and the essence of an object. Raises KeyError, TypeError or
        AttributeError when it is none."""
        metadata = told["metadata"]
        name, namespace = str(metadata["name"]), str(metadata.get("namespace") or "")
        kept = {key: metadata[key] for key in ("name", "namespace", "uid") if metadata.get(key)}
        made = {**self.essence(told), "apiVersion": self.api_version, "kind": self.kind}
        made["metadata"] = {**made.get("metadata", {}), **kept}
        return (f"{namespace}/{name}" if namespace else name), made


def secret(namespace: str, name: str) -> Resource:
    """One Secret."""
    return Resource("Secret", "v1", "secrets", _secret, namespace=namespace, name=name)


def _policy(told: Object) -> dict[str, Any]:
    """All but what its author did not write: a field that nobody knows must be refused, not overlooked."""
    conditions = (told.get("status") or {}).get("conditions") or []
    return {**_network_policy(told), "metadata": {"conditions": conditions}}


def _network_policy(told: Object) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key not in ("metadata", "status")}


def _secret(told: Object) -> dict[str, Any]:
    return {key: told[key] for key in ("type", "data") if told.get(key)}


def _labels(told: Object) -> dict[str, Any]:
    return {"metadata": {"labels": told["metadata"].get("labels") or {}}}


def _pod(told: Object) -> dict[str, Any]:
    spec, status, metadata = told.get("spec") or {}, told.get("status") or {}, told["metadata"]
    annotations = metadata.get("annotations") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return {
        "metadata": {
            "labels": metadata.get("labels") or {},
            "created": metadata.get("creationTimestamp") or "",
            # A static pod's processes are in a control group of this name, not of its mirror's uid.
            "config": annotations.get("kubernetes.io/config.hash") or "",
        },
        "node": spec.get("nodeName") or "",
        "account": spec.get("serviceAccountName") or "",
        "hostNetwork": bool(spec.get("hostNetwork")),
        "ports": [
            [port["name"], port["containerPort"]]
            for container in containers
            for port in container.get("ports") or ()
            if port.get("name")
        ],
        "phase": status.get("phase") or "",
        "ips": [each["ip"] for each in status.get("podIPs") or () if each.get("ip")]
        or [ip for ip in (status.get("podIP"),) if ip],
    }


def _service(told: Object) -> dict[str, Any]:
    spec = told.get("spec") or {}
    ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return {
        **_labels(told),
        "type": spec.get("type") or "",
        "selector": spec.get("selector") or {},
        "ips": [ip for ip in ips if ip and ip != "None"],
        "local": spec.get("internalTrafficPolicy") == "Local",
        "ports": [
            {"name": port.get("name") or "", "port": port["port"], "protocol": port.get("protocol") or "TCP"}
            for port in spec.get("ports") or ()
        ],
    }


def _slice(told: Object) -> dict[str, Any]:
    labels = told["metadata"].get("labels") or {}
    return {
        "service": labels.get("kubernetes.io/service-name") or "",
        "endpoints": [
            {
                "ips": list(each.get("addresses") or ()),
                # https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#ready: absent is ready
                "ready": (each.get("conditions") or {}).get("ready") is not False,
                "node": each.get("nodeName") or (each.get("topology") or {}).get("kubernetes.io/hostname") or "",
            }
            for each in told.get("endpoints") or ()
        ],
        "ports": [
            {"name": port.get("name") or "", "port": port.get("port"), "protocol": port.get("protocol") or "TCP"}
            for port in told.get("ports") or ()
        ],
    }


def _node(told: Object) -> dict[str, Any]:
    addresses = (told.get("status") or {}).get("addresses") or ()
    spec = told.get("spec") or {}
    return {
        **_labels(told),
        "podCIDRs": [each for each in spec.get("podCIDRs") or (spec.get("podCIDR"),) if each],
        "ips": [each["address"] for each in addresses if each.get("type") in ("InternalIP", "ExternalIP")],
    }


CILIUM = Resource("CiliumNetworkPolicy", "cilium.io/v2", "ciliumnetworkpolicies", _policy, optional=True)
CLUSTERWIDE = Resource(
    "CiliumClusterwideNetworkPolicy", "cilium.io/v2", "ciliumclusterwidenetworkpolicies", _policy, optional=True
)
NETWORK_POLICIES = Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", _network_policy)
NAMESPACES = Resource("Namespace", "v1", "namespaces", _labels)
PODS = Resource("Pod", "v1", "pods", _pod)
SERVICES = Resource("Service", "v1", "services", _service)
# v1 came with Kubernetes 1.21; v1beta1 has the name of an endpoint's node among its `topology`.
SLICES = Resource(
    "EndpointSlice", "discovery.k8s.io/v1", "endpointslices", _slice, other_version="discovery.k8s.io/v1beta1"
)
NODES = Resource("Node", "v1", "nodes", _node)

POLICIES = (CILIUM, CLUSTERWIDE, NETWORK_POLICIES)
WATCHED = (*POLICIES, NAMESPACES, PODS, SERVICES, SLICES, NODES)
