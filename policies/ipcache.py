"""Whose an address is: which prefixes and learned addresses have identities of their own, and the owner of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType

from .endpoint_policy import DnsRule
from .fqdn import FqdnSelectors, LearnedIdentities, Place, learned_labels, place_of
from .frontends import NOBODY
from .identity import CIDR_IDENTITIES, IPNetwork, Reserved, cidr_labels, network_of, number_labels
from .longest_prefix import LongestPrefix
from .model import Policy
from .resolve import services_meant
from .service import Service
from .workload import Endpoint, IPAddress

_WORLDS: Mapping[IPNetwork, Reserved] = MappingProxyType(
    {IPv4Network("0.0.0.0/0"): Reserved.WORLD_IPV4, IPv6Network("::/0"): Reserved.WORLD_IPV6}
)


def prefixes_of(policies: Iterable[Policy], services: tuple[Service, ...]) -> set[IPNetwork]:
    """Every prefix that a policy tells apart; each gets an identity of its own."""
    found: set[IPNetwork] = set()
    for policy in policies:
        found |= policy.named.networks
        for reference in policy.named.services:
            for service in services_meant(reference, services):
                found.update(ip_network(address) for address in service.addresses)
    return found - _WORLDS.keys()


def selectors_of(policies: Iterable[Policy], old: FqdnSelectors | None) -> FqdnSelectors:
    """Of all toFQDNs; the old ones, which know the answers, when they are the same."""
    rules = {selector for policy in policies for selector in policy.named.fqdns}
    return old if old is not None and old.rules == rules else FqdnSelectors(rules)


def fitting_of(
    selectors: FqdnSelectors, names: Mapping[str, frozenset[IPAddress]]
) -> dict[IPAddress, frozenset[DnsRule]]:
    """The addresses that have a name which a selector means, with the selectors of all their names."""
    found: dict[IPAddress, frozenset[DnsRule]] = {}
    if selectors.rules:
        for name, addresses in names.items():
            if rules := selectors.fitting((name,)):
                for address in addresses:
                    found[address] = found.get(address, frozenset()) | rules
    return found


def number_addresses(
    prefixes: set[IPNetwork], selectors: FqdnSelectors, fitting: Mapping[IPAddress, frozenset[DnsRule]]
) -> tuple[dict[IPNetwork, int], LearnedIdentities]:
    """Numbers for prefixes and for learned addresses. What selectors will mean outside all prefixes is numbered in
    advance, so that names can be learned without a new world."""
    around = LongestPrefix(dict.fromkeys((*prefixes, *_WORLDS)))
    places = {Place(world, rules) for world in _WORLDS for rules in selectors.expected()}
    places |= {place_of(address, rules, around) for address, rules in fitting.items()}
    labelled = {cidr_labels(prefix): prefix for prefix in prefixes}
    learned = {learned_labels(place): place for place in places}
    numbers = number_labels((*labelled, *learned), CIDR_IDENTITIES)
    return (
        {prefix: numbers[labels] for labels, prefix in labelled.items()},
        LearnedIdentities(selectors, around, {place: numbers[learned_labels(place)] for place in places}),
    )


def ipcache_of(
    cidrs: Mapping[IPNetwork, int],
    learned: Mapping[IPNetwork, int],
    services: Iterable[Service],
    endpoints: Iterable[Endpoint],
    hosts: Iterable[IPAddress],
    nodes: Mapping[IPAddress, Reserved],
) -> dict[IPNetwork, int]:
    """Endpoints and the host win over a CIDR of the same length; a shorter CIDR loses by being shorter. Nobody talks to
    a service's own address: sockets are given a backend instead."""
    found = {prefix: int(number) for prefix, number in _WORLDS.items()}
    found.update(cidrs)
    found.update(learned)
    found.update((network_of(vip), NOBODY) for service in services for vip in service.vips)
    found.update((network_of(address), int(identity)) for address, identity in nodes.items())
    for address in hosts:
        found[network_of(address)] = int(Reserved.HOST)
    for endpoint in endpoints:
        for address in endpoint.ips:
            found[network_of(address)] = endpoint.identity
    return found
