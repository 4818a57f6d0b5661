"""Nodes of a cluster: what is meant by the entities remote-node and kube-apiserver, and by nodeSelector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .identity import Reserved
from .language.entry_fields import NAME, read_labels, read_own_addresses
from .language.fields import Field, shorten
from .workload import IPAddress

NODE_FIELDS = ("name", "ips", "labels", "apiserver")


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of `nodes:` in a workloads file. `apiserver`: the cluster's API is at these addresses. The labels count
    for nodeSelector where the node is this one."""

    name: str
    ips: tuple[IPAddress, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    apiserver: bool = False
    source: str = ""
    line: int = 0


def read_node(item: Field, fields: dict[str, Field]) -> Node | None:
    """The node of an entry whose fields are open; None, with a problem, where it has no name."""
    name = fields["name"].text() if "name" in fields else ""
    if name == "":
        item.error("the entry has no name", "write name: and the node's name")
    if not name:
        return None
    if not NAME.fullmatch(name):
        fields["name"].error(f"'{shorten(name)}' is not a name", "use lower-case letters, digits, '-' and '.'")
        return None
    return Node(
        name,
        read_own_addresses(fields["ips"]) if "ips" in fields else (),
        read_labels(fields["labels"]) if "labels" in fields else (),
        bool(fields["apiserver"].boolean()) if "apiserver" in fields else False,
        item.findings.source,
        item.line,
    )


def identities_of(nodes: Iterable[Node]) -> Iterator[tuple[IPAddress, Reserved]]:
    """Every address with the identity that whoever is there has; the API's counts where it is both."""
    for node in sorted(nodes, key=lambda each: each.apiserver):
        for ip in node.ips:
            yield ip, Reserved.KUBE_APISERVER if node.apiserver else Reserved.REMOTE_NODE
