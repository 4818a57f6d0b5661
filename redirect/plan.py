"""What the kernel's maps hold, and what the kernel makes of it: it asks a policy twice, for the peer's identity and for
anyone (identity 0), takes the longest port prefix of each, and lets the stronger effect win: DENY, then REDIRECT, then
ALLOW; none is a denial. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_network
from typing import NamedTuple

from ..policies.endpoint_policy import (
    Direction,
    Protocol,
    ResolvedRule,
)
from ..policies.identity import IPNetwork
from ..policies.proxy_kind import ProxyKind, proxy_of
from ..policies.workload import IPAddress
from .port_prefix import PortPrefix, exact

ANYONE = 0
DEFAULT_HTTP_PORT = 15001
DEFAULT_DNS_PORT = 15053
DEFAULT_TLS_PORT = 15002
DEFAULT_KAFKA_PORT = 15003
HOST = 1
HOST_ENDPOINT = 1  # in the map of endpoints, the node itself: bpf/maps.h
GROUP_ENDPOINT = 0x80000000  # there, with the number of a control group: processes of the node


def is_group(endpoint: int) -> bool:
    """True for the number of a control group among those of endpoints, which else are interfaces'."""
    return bool(endpoint & GROUP_ENDPOINT)


class Verdict(IntEnum):
    """What the kernel does with a connection; the greater one wins."""

    ALLOW = 1
    REDIRECT = 2
    DENY = 3


@dataclass(frozen=True, slots=True, order=True)
class Effect:
    """`proxy_port` is the listener of a REDIRECT; 0 when none serves it, and then the kernel drops."""

    verdict: Verdict
    proxy_port: int = 0

    def combine(self, other: Effect) -> Effect:
        """The stronger of two; two listeners for one connection are none."""
        if self.verdict is other.verdict is Verdict.REDIRECT and self.proxy_port != other.proxy_port:
            return Effect(Verdict.REDIRECT)
        return max(self, other)


ALLOW = Effect(Verdict.ALLOW)
OPEN_POLICY = 1  # the number of the policy that lets in anybody at everything (bpf/verdict.h)
DENY = Effect(Verdict.DENY)


class PolicyKey(NamedTuple):
    """One port prefix for one peer identity (0 is anyone) in one numbered policy."""

    policy: int
    identity: int
    ports: PortPrefix


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an address is. Identity 0: nobody may talk to it; `ifindex` 0: not an endpoint of this node."""

    identity: int
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class EndpointPolicies:
    """The numbers of the two policies in force at an endpoint."""

    ingress: int
    egress: int

    def number(self, direction: Direction) -> int:
        """The policy of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class ProxyPorts:
    """Where the proxies listen on 127.0.0.1 and ::1: Envoy for HTTP, TLS and Kafka, the agent for DNS over UDP and TCP.

    0: nobody does, drop.
    """

    http: int = DEFAULT_HTTP_PORT
    dns: int = DEFAULT_DNS_PORT
    tls: int = DEFAULT_TLS_PORT
    kafka: int = DEFAULT_KAFKA_PORT

    def serving(self, rule: ResolvedRule, protocol: Protocol) -> int:
        """The listener that judges by the request rules of `rule`."""
        match proxy_of(rule, protocol):
            case ProxyKind.HTTP:
                return self.http
            case ProxyKind.TLS:
                return self.tls
            case ProxyKind.DNS:
                return self.dns
            case ProxyKind.KAFKA:
                return self.kafka
        return 0


DEFAULT_PORTS = ProxyPorts()


@dataclass(frozen=True, slots=True)
class DatapathPlan:
    """Everything the maps should hold: policy entries, endpoints by interface, owners by prefix."""

    policy: Mapping[PolicyKey, Effect] = field(default_factory=dict)
    endpoints: Mapping[int, EndpointPolicies] = field(default_factory=dict)
    ipcache: Mapping[IPNetwork, Owner] = field(default_factory=dict)
    # `policy` by number, of a plan that was made and not read: between two such plans most are the same objects.
    numbered: Mapping[int, Mapping[PolicyKey, Effect]] | None = field(default=None, compare=False, repr=False)

    def lookup(self, ifindex: int, direction: Direction, identity: int, protocol: Protocol, port: int) -> Effect:
        """What the kernel finds for one endpoint and direction: `ask` in bpf/verdict.h."""
        endpoint = self.endpoints.get(ifindex)
        if endpoint is None:
            return DENY
        found: Effect | None = None
        wanted = exact(protocol, port)
        for who in (identity, ANYONE):
            for ports in (wanted, *wanted.covering()):
                effect = self.policy.get(PolicyKey(endpoint.number(direction), who, ports))
                if effect is not None:
                    found = effect.combine(found) if found else effect
                    break
        return found or DENY

    def owner(self, address: IPAddress) -> Owner | None:
        """The owner by the longest prefix."""
        for length in range(address.max_prefixlen, -1, -1):
            owner = self.ipcache.get(ip_network((address, length), strict=False))
            if owner is not None:
                return owner
        return None

    def judge(self, source: IPAddress, destination: IPAddress, protocol: Protocol, port: int) -> Effect:
        """What the kernel does with a new connection between two addresses: `judge` in bpf/verdict.h."""
        return self.judge_owners(self.owner(source), self.owner(destination), protocol, port)

    def owner_at(self, interface: int) -> Owner | None:
        """The endpoint at an interface. As slow as there are addresses."""
        return next((owner for owner in self.ipcache.values() if owner.ifindex == interface), None)

    def judge_owners(self, client: Owner | None, server: Owner | None, protocol: Protocol, port: int) -> Effect:
        """`judge` for those whose addresses are looked up already."""
        if client is None or server is None or not client.identity or not server.identity:
            return DENY
        effect = ALLOW
        if subject := self._subject(client):
            effect = effect.combine(self.lookup(subject, Direction.EGRESS, server.identity, protocol, port))
        if subject := self._subject(server):
            effect = effect.combine(self.lookup(subject, Direction.INGRESS, client.identity, protocol, port))
            if client.identity == HOST and effect.verdict is Verdict.REDIRECT:
                return ALLOW
        return effect

    def judge_group(self, group: int, direction: Direction, peer: IPAddress, protocol: Protocol, port: int) -> Effect:
        """What the processes of a control group may: `decide_at_socket` in bpf/processes.c. No proxy serves them."""
        owner = Owner(HOST) if peer.is_loopback else self.owner(peer)
        if owner is None or not owner.identity:
            return DENY
        effect = self.lookup(group, direction, owner.identity, protocol, port)
        if effect.verdict is Verdict.REDIRECT:
            past_proxies = direction is Direction.INGRESS and owner.identity == HOST
            return ALLOW if past_proxies else DENY
        return effect

    def _subject(self, owner: Owner) -> int:
        """Whose policy is asked; 0 is nobody's."""
        if owner.identity == HOST:
            return HOST_ENDPOINT if HOST_ENDPOINT in self.endpoints else 0
        return owner.ifindex
