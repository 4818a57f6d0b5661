"""Random peers: endpoints, CIDRs with and without exceptions, entities, services, names."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from lockgate.policies.identity import IPNetwork
from lockgate.tests.agreement.author import Author, enforced
from lockgate.tests.agreement.case import HOSTS, Document
from lockgate.tests.agreement.selectors import peer
from lockgate.tests.agreement.vocabulary import (
    ADDRESSES,
    ELSEWHERE,
    ENTITIES,
    NAME_PATTERNS,
    NAMES,
    NAMESPACES,
    NETWORKS,
    SERVICES,
)

_KINDS = ("Endpoints",) * 4 + ("CIDR", "CIDRSet", "Entities") * 2 + ("", "")


def peers(author: Author, egress: bool, deny: bool, namespace: str) -> Document:
    """The peer fields of an entry; empty for anyone."""
    kinds = [*_KINDS]
    if egress and enforced("TO_SERVICES"):
        kinds.append("Services")
    if egress and not deny and enforced("TO_FQDNS"):
        kinds += ["FQDNs", "FQDNs"]
    kind = author.pick(kinds)
    name = f"{'to' if egress else 'from'}{kind}"
    match kind:
        case "Endpoints":
            return {name: author.some(lambda: peer(author, namespace), 1, 2) if author.chance(96) else []}
        case "CIDR":
            return {name: author.some(lambda: _cidr(author), 1, 2)}
        case "CIDRSet":
            return {name: author.some(lambda: block(author), 1, 2)}
        case "Entities":
            return {name: author.some(lambda: author.pick(ENTITIES), 1, 2)}
        case "Services":
            return {name: [_service(author, namespace)]}
        case "FQDNs":
            return {name: author.some(lambda: dns_name(author), 1, 2)}
    return {}


def block(author: Author) -> Document:
    """{cidr, except}, as in CIDR sets and ipBlock."""
    made: Document = {"cidr": _cidr(author)}
    outer = ip_network(made["cidr"], strict=False)
    if author.chance(70):
        made["except"] = author.some(lambda: _inside(author, outer), 1, 2)
    return made


def dns_name(author: Author) -> Document:
    """{matchName} or {matchPattern}."""
    if author.chance(50):
        return {"matchPattern": author.pick(NAME_PATTERNS)}
    return {"matchName": author.pick((*NAMES, "unseen.example.com"))}


def _cidr(author: Author) -> str:
    text = author.pick(NETWORKS)
    author.hints.networks.add(ip_network(text, strict=False))
    return text


def _inside(author: Author, outer: IPNetwork) -> str:
    """A network inside `outer`: around an address that somebody has, or at one of its ends."""
    somebodys = [ip_address(text) for pair in (*ADDRESSES.values(), *ELSEWHERE) for text in pair] + [*HOSTS]
    anchor = author.pick([outer.network_address, outer.broadcast_address, *(ip for ip in somebodys if ip in outer)])
    inner = ip_network((anchor, author.number(outer.prefixlen, outer.max_prefixlen)), strict=False)
    author.hints.networks.add(inner)
    return str(inner)


def _service(author: Author, namespace: str) -> Document:
    where = {"namespace": author.pick(NAMESPACES)} if not namespace or author.chance(70) else {}
    if author.chance(50):
        return {"k8sService": {"serviceName": author.pick(SERVICES), **where}}
    return {"k8sServiceSelector": {"selector": {"matchLabels": {"kind": author.pick(("a", "b"))}}, **where}}
