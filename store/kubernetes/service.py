"""Services as the workloads file has them: whom toServices means and, where it is wanted, addresses with backends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...policies.labels import valid_labels
from ..content import Document
from .document import source_of, write
from .pod import networked
from .resource import Object

API_SERVER = "default/kubernetes"  # the service that is the cluster's API
_PROTOCOLS = ("TCP", "UDP")


@dataclass(slots=True)
class Services:
    """Documents of services. One that nothing changed for is the same object as before."""

    documents: list[Document] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def update(
        self,
        services: Mapping[str, Object],
        slices: Mapping[str, Object],
        pods: Mapping[str, Object],
        node: str,
        *,
        addresses: bool,
    ) -> None:
        """Of these services, by namespace/name; with `addresses` each has its cluster addresses."""
        before = {each.source: each for each in self.documents}
        self.documents, self.problems = [], []
        by_service: defaultdict[str, list[Object]] = defaultdict(list)
        for each in slices.values():
            by_service[_service_of(each)].append(each)
        labelled = _by_label(pods.values()) if addresses else {}
        for key, service in sorted(services.items()):
            if service["type"] == "ExternalName":
                continue
            entry = _entry(service, by_service[key])
            serving = _serving(service, by_service[key], node) if addresses else set()
            # The agent itself gets to the API by that service's address. One that nobody serves kube-proxy refuses.
            if serving and service["ips"] and key != API_SERVER:
                targets = self._targets(key, service, by_service[key])
                if targets:
                    idle = _selected(service, labelled) - serving
                    entry |= {"vips": list(service["ips"]), "ports": targets}
                    # The selector stands for all pods, whether they are ready or not: each has its weight here.
                    entry["backends"] = [{"ip": ip, "weight": 1} for ip in sorted(serving)]
                    entry["backends"] += [{"ip": ip, "weight": 0} for ip in sorted(idle)]
                    entry.pop("ips", None)
            document = Document(source_of("Service", key), write({"services": [entry]}))
            self.documents.append(known if (known := before.get(document.source)) == document else document)

    def _targets(self, key: str, service: Object, slices: Iterable[Object]) -> list[dict[str, Any]]:
        """Its ports with those of the endpoints, which are the same for all of them but for odd cases."""
        found = []
        for port in service["ports"]:
            if port["protocol"] not in _PROTOCOLS:
                self.problems.append(
                    f"{source_of('Service', key)}: port {port['port']}/{port['protocol']}: an address is led to "
                    "backends for TCP and UDP only, so this port is closed"
                )
                continue
            numbers = {
                other["port"]
                for each in slices
                for other in each["ports"]
                if (other["name"], other["protocol"]) == (port["name"], port["protocol"]) and other["port"]
            }
            if len(numbers) > 1:
                self.problems.append(
                    f"{source_of('Service', key)}: port {port['port']}: its endpoints serve at different ports "
                    f"({', '.join(map(str, sorted(numbers)))}), so the service's address is left to kube-proxy"
                )
                return []
            target = numbers.pop() if numbers else port["port"]
            found.append({"port": port["port"], "targetPort": target, "protocol": port["protocol"]})
        return found


def api_addresses(services: Mapping[str, Object], slices: Mapping[str, Object]) -> list[str]:
    """Where the cluster's API is: its service's own addresses and those behind it."""
    service = services.get(API_SERVER)
    found = list(service["ips"]) if service is not None else []
    for each in slices.values():
        if _service_of(each) == API_SERVER:
            found += [ip for endpoint in each["endpoints"] for ip in endpoint["ips"]]
    return sorted(set(found))


def _service_of(slice_: Object) -> str:
    return f"{slice_['metadata'].get('namespace')}/{slice_['service']}"


def _entry(service: Object, slices: Iterable[Object]) -> dict[str, Any]:
    metadata = service["metadata"]
    entry: dict[str, Any] = {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "labels": valid_labels((metadata.get("labels") or {}).items()),
    }
    if service["selector"]:
        entry["selector"] = valid_labels(service["selector"].items())
    elif ips := sorted({ip for each in slices for endpoint in each["endpoints"] for ip in endpoint["ips"]}):
        entry["ips"] = ips
    return entry


def _serving(service: Object, slices: Iterable[Object], node: str) -> set[str]:
    return {
        ip
        for each in slices
        for endpoint in each["endpoints"]
        if endpoint["ready"] and (not service["local"] or endpoint["node"] == node)
        for ip in endpoint["ips"]
    }


def _by_label(pods: Iterable[Object]) -> Mapping[tuple[str, str, str], list[Object]]:
    """By namespace, key and value, so that no service has to look at all pods."""
    found: defaultdict[tuple[str, str, str], list[Object]] = defaultdict(list)
    for pod in pods:
        if networked(pod):
            metadata = pod["metadata"]
            for key, value in (metadata.get("labels") or {}).items():
                found[metadata["namespace"], key, value].append(pod)
    return found


def _selected(service: Object, labelled: Mapping[tuple[str, str, str], list[Object]]) -> set[str]:
    wanted = service["selector"].items()
    if not wanted:
        return set()
    namespace = service["metadata"]["namespace"]
    fewest = min((labelled.get((namespace, *each), []) for each in wanted), key=len)
    return {ip for pod in fewest if wanted <= pod["metadata"]["labels"].items() for ip in pod["ips"]}
