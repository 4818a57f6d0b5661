"""Reading whom an entry speaks about: fromEndpoints, fromEntities, fromCIDR, ... and their `to` twins."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network

from ..endpoint_policy import Direction
from ..identity import IPNetwork
from ..model import Block, Entity, Peers, ServiceRef
from .fields import Field, shorten
from .parse_l7 import parse_dns_name
from .parse_selector import parse_selector, peer_selector
from .unsupported import Feature

INGRESS_PEERS = ("fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities", "fromNodes", "fromGroups")
EGRESS_PEERS = (
    "toEndpoints",
    "toCIDR",
    "toCIDRSet",
    "toEntities",
    "toServices",
    "toFQDNs",
    "toNodes",
    "toGroups",
)
_MAPPED_IPV4 = IPv6Network("::ffff:0:0/96")
_OTHER_CIDR_FIELDS = ("cidrGroupRef", "cidrGroupSelector")


def parse_peers(
    field: Field, fields: dict[str, Field], direction: Direction, deny: bool, namespace: str
) -> Peers | None:
    """The peers of an entry; None when it names none (which is anyone). Present but empty is nobody."""
    names = INGRESS_PEERS if direction is Direction.INGRESS else EGRESS_PEERS
    given = [name for name in names if name in fields]
    if not given:
        return None
    filled = [name for name in given if fields[name].items()]
    if len(filled) > 1:
        field.error(
            f"{filled[0]} and {filled[1]} in one entry are two kinds of peer", "write one entry of the list for each"
        )
    found = Peers()
    if len(filled) < len(given):
        return found  # one list that is there but empty selects nobody, whatever stands beside it
    for name in filled:
        kind = name.removeprefix("from").removeprefix("to")
        one = _READERS[kind](fields[name], deny, namespace)
        found = Peers(
            found.endpoints + one.endpoints,
            found.blocks + one.blocks,
            found.entities + one.entities,
            found.fqdns + one.fqdns,
            found.services + one.services,
        )
    return found


def _endpoints(field: Field, deny: bool, namespace: str) -> Peers:
    selectors = (peer_selector(item, namespace) for item in field.items())
    return Peers(endpoints=tuple(selector for selector in selectors if selector is not None))


def _entities(field: Field, deny: bool, namespace: str) -> Peers:
    entities = (item.choice(Entity, "entity") for item in field.items())
    return Peers(entities=tuple(entity for entity in entities if entity is not None))


def _cidrs(field: Field, deny: bool, namespace: str) -> Peers:
    networks = (parse_cidr(item) for item in field.items())
    return Peers(blocks=tuple(Block(network) for network in networks if network is not None))


def _cidr_sets(field: Field, deny: bool, namespace: str) -> Peers:
    blocks = (parse_block(item) for item in field.items())
    return Peers(blocks=tuple(block for block in blocks if block is not None))


def parse_block(field: Field) -> Block | None:
    """{cidr, except}: every exception must lie inside the CIDR."""
    fields = field.mapping(("cidr", "except", *_OTHER_CIDR_FIELDS))
    if fields is None:
        return None
    field.warn_of_nulls()
    for name in _OTHER_CIDR_FIELDS:
        if name in fields:
            fields[name].unsupported(Feature.CIDR_GROUPS)
            return None
    if "cidr" not in fields:
        field.error("the entry has no cidr", "write cidr: 10.0.0.0/8")
        return None
    network = parse_cidr(fields["cidr"])
    exceptions: list[IPNetwork] = []
    for item in fields["except"].items() if "except" in fields else ():
        inner = parse_cidr(item)
        if inner is None or network is None:
            continue
        if inner.version != network.version:
            item.error(
                f"{inner} is IPv{inner.version} and {network} is IPv{network.version}", "use one family in an entry"
            )
        elif not (inner.network_address in network and inner.prefixlen >= network.prefixlen):
            item.error(f"{inner} is not inside {network}", "except can only take addresses out of the cidr")
        else:
            exceptions.append(inner)
    return Block(network, tuple(exceptions)) if network is not None else None


def parse_cidr(field: Field) -> IPNetwork | None:
    """An address with its prefix length. Bits beyond the prefix are dropped, as the reference does."""
    text = field.text()
    if text is None:
        return None
    if "/" not in text:
        width = 128 if ":" in text else 32
        field.error(f"'{shorten(text)}' has no prefix length", f"write {shorten(text)}/{width} for one address")
        return None
    address, _, length = text.partition("/")
    try:
        if not (length.isascii() and length.isdigit()) or "%" in address:
            raise ValueError(length)
        network = ip_network(text, strict=False)
    except ValueError:
        field.error(f"'{shorten(text)}' is not a CIDR", "write an address and a prefix length: 10.0.0.0/8 or fd00::/8")
        return None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED_IPV4):
        within = IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        field.warn(f"{shorten(text)} is IPv6, and no packet has such an address", f"write {within}")
    return network


def _fqdns(field: Field, deny: bool, namespace: str) -> Peers:
    if deny:
        field.error("toFQDNs is not possible in a deny rule", "deny the addresses with toCIDR")
    names = (parse_dns_name(item) for item in field.items())
    return Peers(fqdns=tuple(name for name in names if name is not None))


def _services(field: Field, deny: bool, namespace: str) -> Peers:
    services = (_service(item) for item in field.items())
    return Peers(services=tuple(service for service in services if service is not None))


def _service(field: Field) -> ServiceRef | None:
    fields = field.mapping(("k8sService", "k8sServiceSelector"))
    if fields is None:
        return None
    if len(fields) != 1:
        field.error("a service entry needs exactly one of k8sService and k8sServiceSelector", "write one of them")
        return None
    if (named := fields.get("k8sService")) is not None:
        inner = named.mapping(("serviceName", "namespace"))
        if inner is None:
            return None
        if "serviceName" not in inner:
            named.error("the service has no serviceName", "write serviceName: and the service's name")
            return None
        name = inner["serviceName"].text()
        if name == "":
            inner["serviceName"].error("the service has no name", "write the service's name")
        return ServiceRef(name, None, _service_namespace(inner)) if name else None
    chosen = fields["k8sServiceSelector"]
    inner = chosen.mapping(("selector", "namespace"))
    if inner is None:
        return None
    if "selector" not in inner:
        chosen.error("the service selector has no selector", "write selector: {matchLabels: ...}")
        return None
    selector = parse_selector(inner["selector"])
    return ServiceRef(None, selector, _service_namespace(inner)) if selector is not None else None


def _service_namespace(fields: dict[str, Field]) -> str | None:
    """None, which is every namespace, when none is written: a service is not of the policy's namespace."""
    return (fields["namespace"].text() or None) if "namespace" in fields else None


def _nodes(field: Field, deny: bool, namespace: str) -> Peers:
    field.unsupported(Feature.NODES)
    return Peers()


def _groups(field: Field, deny: bool, namespace: str) -> Peers:
    field.unsupported(Feature.GROUPS)
    return Peers()


_READERS: dict[str, Callable[[Field, bool, str], Peers]] = {
    "Endpoints": _endpoints,
    "CIDR": _cidrs,
    "CIDRSet": _cidr_sets,
    "Entities": _entities,
    "Services": _services,
    "FQDNs": _fqdns,
    "Nodes": _nodes,
    "Groups": _groups,
}
