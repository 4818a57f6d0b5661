"""Nodes as the workloads file has them, and where the cluster's API is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...policies.labels import valid_labels
from ..content import Document
from .document import source_of, write
from .resource import Object
from .service import API_SERVER, api_addresses


@dataclass(slots=True)
class Nodes:
    """Documents of nodes. One that nothing changed for is the same object as before."""

    documents: list[Document] = field(default_factory=list)

    def update(self, nodes: Mapping[str, Object], services: Mapping[str, Object], slices: Mapping[str, Object]) -> None:
        """Of these nodes, and of the API as one that is called as its service is."""
        before = {each.source: each for each in self.documents}
        found = [Document(source_of("Node", key), _node(key, node)) for key, node in sorted(nodes.items())]
        if ips := api_addresses(services, slices):
            entry = {"name": "kubernetes.default", "ips": ips, "apiserver": True}
            found.append(Document(source_of("Service", f"{API_SERVER} (API server)"), write({"nodes": [entry]})))
        self.documents = [known if (known := before.get(each.source)) == each else each for each in found]


def _node(name: str, node: Object) -> bytes:
    labels = valid_labels((node["metadata"].get("labels") or {}).items())
    return write({"nodes": [{"name": name, "ips": list(dict.fromkeys(node["ips"])), "labels": labels}]})
