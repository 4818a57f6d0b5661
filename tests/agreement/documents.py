"""Random settings: policy documents and workloads, as data, with everything of the language that the node enforces.

What is enforced is asked of `policies/language/unsupported.py` at run time, so a feature is generated from the day that
it is accepted. On the way hints are noted down: values at which a policy changes its mind, for flows to be made of.
"""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

from lockgate.tests.agreement.author import Author, Hints, enforced
from lockgate.tests.agreement.case import Document, Setting
from lockgate.tests.agreement.ground import interface
from lockgate.tests.agreement.peers import block, peers
from lockgate.tests.agreement.ports import icmps, plain_port, port_rule
from lockgate.tests.agreement.selectors import label, plain_selector, subject
from lockgate.tests.agreement.vocabulary import (
    ADDRESSES,
    ELSEWHERE,
    LABELS,
    NAMED_ADDRESSES,
    NAMES,
    NAMESPACES,
    PORT_NAMES,
    PORTS,
    SERVICES,
    VALUES,
)

_KINDS = ("CiliumNetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy")
_SECTIONS = {"ingress": 65, "egress": 45, "ingressDeny": 15, "egressDeny": 15}  # per cent of rules that have it
_POLICY_TYPES = (["Ingress"], ["Egress"], ["Ingress", "Egress"])


def setting_with_hints(random: Random) -> tuple[Setting, Hints]:
    """A setting with one to four policies, and the hints to it."""
    author = Author(random)
    for addresses in (*ADDRESSES.values(), *ELSEWHERE):
        author.workloads.append(_workload(author, addresses))
    services = [_service(author, name) for name in SERVICES] if enforced("TO_SERVICES") else []
    names = {name: _answers(author) for name in NAMES} if enforced("TO_FQDNS") else {}
    author.secrets = {(namespace, "token"): author.pick(VALUES) for namespace in NAMESPACES}
    policies = [_policy(author, number) for number in range(author.number(1, 4))]
    secrets = [_secret(*key, value) for key, value in author.secrets.items()]
    return Setting([*policies, *secrets], author.workloads, services, names), author.hints


def _workload(author: Author, addresses: tuple[str, str]) -> Document:
    number = len(author.workloads)
    labels = {key: author.pick(values) for key, values in LABELS.items() if author.chance(60)}
    if author.workloads and author.chance(25):
        labels = dict(author.pick(author.workloads)["labels"])
    entry: Document = {"name": f"w{number}", "namespace": author.pick(NAMESPACES), "labels": labels}
    if number in ADDRESSES:
        entry["interface"] = interface(number)
    families = author.number(0, 9)  # a few have one address only
    entry["ips"] = [addresses[families]] if families < 2 else list(addresses)
    if ports := {name: author.pick(PORTS) for name in PORT_NAMES if author.chance(30)}:
        entry["ports"] = ports
        author.hints.ports |= set(ports.values())
    return entry


def _service(author: Author, name: str) -> Document:
    entry: Document = {"name": name, "namespace": author.pick(NAMESPACES)}
    if author.chance(60):
        entry["labels"] = {"kind": author.pick(("a", "b"))}
    key, value = label(author, author.pick(author.workloads))
    if author.chance(70) and ":" not in key:
        entry["selector"] = {key: value}
    if author.chance(50):
        entry["ips"] = [author.pick(("198.51.100.7", "2001:db8:1::5", "192.0.2.1"))]
        author.hints.networks |= {ip_network(address) for address in entry["ips"]}
    return entry


def _answers(author: Author) -> list[str]:
    found = sorted(set(author.some(lambda: author.pick(NAMED_ADDRESSES), 1, 2)))
    author.hints.networks |= {ip_network(address) for address in found}
    return found


def _secret(namespace: str, name: str, value: str) -> Document:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"value": value}}


def _policy(author: Author, number: int) -> Document:
    kind = author.pick(_KINDS)
    metadata: Document = {"name": f"p{number}"}
    namespace = ""
    if kind != "CiliumClusterwideNetworkPolicy":
        namespace = author.pick(NAMESPACES)
        if namespace != "default" or author.chance(50):
            metadata["namespace"] = namespace
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    document: Document = {"apiVersion": version, "kind": kind, "metadata": metadata}
    if kind == "NetworkPolicy":
        return document | {"spec": _plain_spec(author, namespace)}
    if author.chance(80):
        document["spec"] = _rule(author, namespace)
    if "spec" not in document or author.chance(10):
        document["specs"] = author.some(lambda: _rule(author, namespace), 1, 2)
    return document


def _rule(author: Author, namespace: str) -> Document:
    rule: Document = {"endpointSelector": subject(author, namespace)}
    for name in [name for name, percent in _SECTIONS.items() if author.chance(percent)] or ["ingress"]:
        egress, deny = name.startswith("egress"), name.endswith("Deny")
        rule[name] = [_entry(author, egress, deny, namespace) for _ in range(author.number(1, 1 if deny else 3))]
    if author.chance(20):
        directions = [direction for direction in ("ingress", "egress") if author.chance(70)]
        rule["enableDefaultDeny"] = {direction: author.chance(30) for direction in directions}
    return rule


def _entry(author: Author, egress: bool, deny: bool, namespace: str) -> Document:
    if author.chance(8):
        return {}
    entry = peers(author, egress, deny, namespace)
    if enforced("ICMPS") and author.chance(15):
        entry["icmps"] = icmps(author)
    elif not entry or author.chance(75):
        entry["toPorts"] = author.some(lambda: port_rule(author, egress, deny), 1, 2)
    return entry


def _plain_spec(author: Author, namespace: str) -> Document:
    """Of a NetworkPolicy."""
    spec: Document = {"podSelector": plain_selector(author, namespace)} if author.chance(90) else {}
    for name, percent, side in (("ingress", 65, "from"), ("egress", 45, "to")):
        if author.chance(percent):
            spec[name] = [_plain_entry(author, side, namespace) for _ in range(author.number(0, 2))]
    if author.chance(60):
        spec["policyTypes"] = author.pick(_POLICY_TYPES)
    return spec


def _plain_entry(author: Author, side: str, namespace: str) -> Document:
    entry: Document = {}
    if author.chance(75):
        entry[side] = author.some(lambda: _plain_peer(author, namespace), 0, 2)
    if author.chance(60):
        entry["ports"] = author.some(lambda: plain_port(author), 0, 2)
    return entry


def _plain_peer(author: Author, namespace: str) -> Document:
    if author.chance(35):
        return {"ipBlock": block(author)}
    peer: Document = {}
    if author.chance(60):
        peer["podSelector"] = plain_selector(author, namespace)
    if not peer or author.chance(40):
        name = {"kubernetes.io/metadata.name": author.pick((*NAMESPACES, "nowhere"))}
        peer["namespaceSelector"] = {"matchLabels": name} if author.chance(60) else {}
    return peer
