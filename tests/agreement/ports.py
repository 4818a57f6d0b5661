"""Random toPorts entries, icmps, and the ports of a NetworkPolicy."""

from __future__ import annotations

from lockgate.policies.endpoint_policy import LAST_PORT
from lockgate.tests.agreement.author import Author, enforced
from lockgate.tests.agreement.case import Document
from lockgate.tests.agreement.peers import dns_name
from lockgate.tests.agreement.requests import request_rules
from lockgate.tests.agreement.vocabulary import (
    ICMP_NUMBERS,
    ICMP_TYPES,
    NAMESPACES,
    PORT_NAMES,
    PORTS,
    SERVER_NAMES,
    SHOWN,
    SPREADS,
    TRUSTED,
)


def port_rule(author: Author, egress: bool, deny: bool) -> Document:
    """An entry of toPorts, with request rules more often than not."""
    if egress and not deny and enforced("DNS_RULES") and author.chance(12):
        return {
            "ports": author.some(lambda: _dns_port(author), 1, 2),
            "rules": {"dns": author.some(lambda: dns_name(author), 1, 2)},
        }
    if not deny and author.chance(22):
        return _tls_rule(author)
    with_rules = not deny and author.chance(65)
    rule: Document = {"ports": author.some(lambda: _port(author, with_rules), 1, 3)}
    if with_rules:
        rule["rules"] = request_rules(author)
    return rule


def _tls_rule(author: Author) -> Document:
    """About TLS: most often the same few ports and secrets, as rules about one connection must name the same."""
    author.hints.tls = True
    rule: Document = {"ports": author.some(lambda: _tls_port(author), 1, 2)}
    names, terminating, originating = author.pick(
        ((True, False, False),) * 4
        + ((False, True, False), (True, True, False), (False, True, True), (True, True, True)) * 2
        + ((False, False, True),)
    )
    if names:
        rule["serverNames"] = author.some(lambda: author.pick(tuple(SERVER_NAMES)), 1, 2)
    if terminating:
        rule["terminatingTLS"] = _context(author, SHOWN)
    if originating:
        rule["originatingTLS"] = _context(author, TRUSTED)
    if (terminating or originating) and author.chance(75):
        rule["rules"] = request_rules(author)
    return rule


def _tls_port(author: Author) -> Document:
    if author.chance(40):
        return _port(author, True)
    author.hints.ports.add(443)
    return {"port": "443", "protocol": "TCP"}


def _context(author: Author, secrets: tuple[str, ...]) -> Document:
    name = author.pick((secrets[0],) * 12 + (*secrets, "missing"))
    return {"secret": {"name": name, "namespace": NAMESPACES[author.chance(10)]}}


def icmps(author: Author) -> list[Document]:
    """The whole of `icmps`."""
    return author.some(lambda: {"fields": author.some(lambda: _icmp(author), 1, 2)}, 1, 2)


def plain_port(author: Author) -> Document:
    """An entry of a NetworkPolicy's `ports`."""
    protocol = author.pick(("TCP", "UDP", "SCTP", ""))
    entry: Document = {"protocol": protocol} if protocol else {}
    if author.chance(15):
        return entry
    if author.chance(20):
        return {"port": author.pick(PORT_NAMES), **entry}
    first, last = _span(author)
    return {"port": first, **entry, **({"endPort": last} if last else {})}


def _port(author: Author, http: bool) -> Document:
    protocol = "TCP" if http else author.pick(("TCP", "TCP", "UDP", "SCTP", "ANY", "", "tcp"))
    entry: Document = {"protocol": protocol} if protocol else {}
    if author.chance(20):
        return {"port": author.pick((*PORT_NAMES, "HTTP", "unknown")), **entry}
    if not http and author.chance(8):
        return {"port": "0", **entry}
    first, last = _span(author)
    return {"port": str(first), **entry, **({"endPort": last} if last else {})}


def _span(author: Author) -> tuple[int, int]:
    """The first port and the last; 0 for the last when only one port is meant."""
    first = author.pick(PORTS)
    author.hints.ports.add(first)
    if not author.chance(35):
        return first, 0
    last = min(first + author.pick(SPREADS), LAST_PORT)
    author.hints.ports.add(last)
    return first, last


def _dns_port(author: Author) -> Document:
    return {"port": author.pick(("53", "80")), "protocol": author.pick(("UDP", "TCP", "ANY"))}


def _icmp(author: Author) -> Document:
    family = author.pick(("IPv4", "IPv6"))
    if author.chance(50):
        return {"family": family, "type": author.pick(ICMP_TYPES[family])}
    number = author.pick(ICMP_NUMBERS)
    author.hints.icmp.add(number)
    if family == "IPv4" and author.chance(30):
        return {"type": number}
    return {"family": family, "type": number}
