"""From resolved policies to the entries of the kernel's maps. Pure.

The kernel asks a policy twice, for the peer's identity and for anyone (identity 0), takes the longest port prefix of
each, and lets the stronger effect win: DENY, then REDIRECT, then ALLOW; none is a denial. As only the longest prefix is
seen, an entry holds the effect of every shorter one of its identity too.

A policy's number is a hash of its entries. Endpoints with equal rules share one copy, a changed policy arrives under a
new number beside the old one, and an endpoint moves over in one write: no packet ever meets half a policy.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from ipaddress import IPv6Network, ip_network
from types import MappingProxyType
from typing import NamedTuple

from ..policies.difference import other_values
from ..policies.endpoint_policy import (
    LAST_PORT,
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from ..policies.identity import IPNetwork, network_of
from ..policies.proxy_kind import ProxyKind, proxy_of
from ..policies.workload import Endpoint, IPAddress
from .port_prefix import EVERYTHING, PortPrefix, exact, split

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


# Loopback is never a pod's business: Envoy's listeners, its admin and the xDS server live there.
_CLOSED = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
# In the maps an IPv4 address stands here. A policy or a DNS answer that writes one so means an IPv6 address, which no
# packet has (bpf/packet.h drops them); as an entry it would give an IPv4 address another owner.
_MAPPED_IPV4 = IPv6Network("::ffff:0:0/96")


def plan(
    endpoints: Sequence[tuple[Endpoint, EndpointPolicy]],
    ipcache: Mapping[IPNetwork, int],
    proxies: ProxyPorts = DEFAULT_PORTS,
) -> DatapathPlan:
    """Plan once. A node that plans again and again keeps a Planner, which remembers the unchanged policies."""
    return Planner().plan(endpoints, ipcache, proxies)


class Planner:
    """`plan` is a pure function of its arguments; the object only remembers the policies of the last plan."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[int, ProxyPorts], _Compiled] = {}  # by the id() of the policy that it holds
        self._entries: dict[PolicyKey, Effect] = {}
        self._numbered: dict[int, Mapping[PolicyKey, Effect]] = {}  # the same

    def plan(
        self,
        endpoints: Sequence[tuple[Endpoint, EndpointPolicy]],
        ipcache: Mapping[IPNetwork, int],
        proxies: ProxyPorts = DEFAULT_PORTS,
        host: EndpointPolicy | None = None,
        closed: Collection[IPNetwork] = (),
    ) -> DatapathPlan:
        """The maps' content for these endpoints (those that are not local are left out) and this ipcache.

        `host` is the policy of the node itself; None when no policy selects it.

        `ipcache` should own 0.0.0.0/0 and ::/0 (an address without owner is dropped) and the node's own addresses.
        L7 rules of a kind that no proxy serves are drops.

        In the networks that are `closed` nobody may talk to an address but a local endpoint's and the node's own,
        whatever `ipcache` calls it.
        """
        owners = {
            network: Owner(identity)
            for network, identity in ipcache.items()
            if can_own(network) and (identity == HOST or not lies_in(network, closed))
        }
        owners |= {network: Owner(0) for network in closed}
        local = [(endpoint, policy) for endpoint, policy in endpoints if endpoint.local]
        known, self._compiled = self._compiled, {}
        for policy in [*(policy for _, policy in local), *((host,) if host is not None else ())]:
            for direction in Direction:
                half = policy.direction(direction)
                key = (id(half), proxies)
                self._compiled[key] = known.get(key) or self._compiled.get(key) or _Compiled(half, proxies)
        numbers = _numbers(compiled.digest for compiled in self._compiled.values())
        for endpoint, _ in local:
            for ip in endpoint.ips:
                owners[network_of(ip)] = Owner(endpoint.identity, endpoint.ifindex)
        owners |= {network: Owner(0) for network in _CLOSED}

        def number(half: DirectionPolicy) -> int:
            return numbers[self._compiled[id(half), proxies].digest]

        numbered = {numbers[each.digest]: each.numbered(numbers[each.digest]) for each in self._compiled.values()}
        entries = self._entries.copy()
        for part in other_values(self._numbered, numbered):
            for entry in part:
                del entries[entry]
        for part in other_values(numbered, self._numbered):
            entries |= part
        self._entries, self._numbered = entries, numbered
        policies = {endpoint.ifindex: policy for endpoint, policy in local}
        if host is not None:
            policies[HOST_ENDPOINT] = host
        return DatapathPlan(
            policy=MappingProxyType(entries),
            endpoints=MappingProxyType(
                {
                    ifindex: EndpointPolicies(number(policy.ingress), number(policy.egress))
                    for ifindex, policy in policies.items()
                }
            ),
            ipcache=MappingProxyType(owners),
            numbered=MappingProxyType(numbered),
        )


def lies_in(network: IPNetwork, networks: Iterable[IPNetwork]) -> bool:
    """True for a part of one of `networks`, or the whole of it."""
    return any(
        network.version == each.version and network.prefixlen >= each.prefixlen and network.network_address in each
        for each in networks
    )


def can_own(network: IPNetwork) -> bool:
    """False for prefixes whose addresses are nobody's on the wire."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED_IPV4):
        return False
    return not network.is_loopback


def compile_direction(policy: DirectionPolicy, proxies: ProxyPorts) -> dict[tuple[int, PortPrefix], Effect]:
    """The entries of one direction: (identity, port prefix) -> effect, without those that a shorter prefix implies."""
    rules = [_rule_entries(rule, proxies) for rule in policy.rules]
    if not policy.default_deny:
        rules.append({EVERYTHING: ALLOW})
    covering: dict[int, list[int]] = {}
    for number, rule in enumerate(policy.rules):
        for identity in (ANYONE,) if rule.peers is None else rule.peers:
            covering.setdefault(identity, []).append(number)
    if not policy.default_deny:
        covering.setdefault(ANYONE, []).append(len(policy.rules))
    # Peers of the same rules have the same entries: work them out once for each combination of rules.
    closed: dict[tuple[int, ...], dict[PortPrefix, Effect]] = {}
    entries: dict[tuple[int, PortPrefix], Effect] = {}
    for identity, chosen in covering.items():
        combination = tuple(chosen)
        if combination not in closed:
            closed[combination] = _close([rules[number] for number in combination])
        for ports, effect in closed[combination].items():
            entries[identity, ports] = effect
    return entries


class _Compiled:
    """One direction's policy as entries, with their digest."""

    def __init__(self, policy: DirectionPolicy, proxies: ProxyPorts) -> None:
        self._policy = policy  # kept alive, so that its id stays its own
        self._entries = compile_direction(policy, proxies)
        self._numbered: tuple[int, dict[PolicyKey, Effect]] = (0, {})
        self.digest = digest_of(self._entries)

    def numbered(self, number: int) -> Mapping[PolicyKey, Effect]:
        """The entries under the policy's number; no policy has 0."""
        if self._numbered[0] != number:
            found = {PolicyKey(number, who, ports): effect for (who, ports), effect in self._entries.items()}
            self._numbered = (number, found)
        return self._numbered[1]


def _numbers(digests: Iterable[bytes]) -> dict[bytes, int]:
    """A number for each digest; those that clash are told apart in the order of digests."""
    numbers: dict[bytes, int] = {}
    taken: set[int] = set()
    for digest in sorted(set(digests)):
        numbers[digest] = number_of(digest, taken)
        taken.add(numbers[digest])
    return numbers


def number_of(digest: bytes, taken: Container[int]) -> int:
    """One that is not taken."""
    if digest == _OPEN:
        return OPEN_POLICY
    number = int.from_bytes(digest[:4], "big")
    while number in taken or number <= OPEN_POLICY:
        number = (number + 1) % 2**32
    return number


def digest_of(entries: Mapping[tuple[int, PortPrefix], Effect]) -> bytes:
    """The same for the same entries."""
    lines = sorted(
        (identity, ports.length, ports.bits, effect.verdict.value, effect.proxy_port)
        for (identity, ports), effect in entries.items()
    )
    return blake2b(repr(lines).encode(), digest_size=16).digest()


_OPEN = digest_of({(ANYONE, EVERYTHING): ALLOW})
_EVERY_PORT = tuple(PortSpan(protocol, 0, LAST_PORT) for protocol in Protocol)


def _rule_entries(rule: ResolvedRule, proxies: ProxyPorts) -> dict[PortPrefix, Effect]:
    if rule.redirects:  # another proxy, or none, for each protocol
        return {
            prefix: Effect(Verdict.REDIRECT, proxies.serving(rule, span.protocol))
            for span in (_EVERY_PORT if rule.ports is None else rule.ports)
            for prefix in split(span)
        }
    effect = DENY if rule.deny else ALLOW
    if rule.ports is None:
        return {EVERYTHING: effect}
    return {prefix: effect for span in rule.ports for prefix in split(span)}


def _close(rules: Sequence[Mapping[PortPrefix, Effect]]) -> dict[PortPrefix, Effect]:
    """Union of the rules in which every prefix has the effect of all that cover it."""
    own: dict[PortPrefix, Effect] = {}
    for rule in rules:
        for ports, effect in rule.items():
            own[ports] = effect.combine(own[ports]) if ports in own else effect
    closed: dict[PortPrefix, Effect] = {}
    for ports in sorted(own):  # shorter ones first
        covering = next((closed[shorter] for shorter in ports.covering() if shorter in closed), None)
        effect = own[ports].combine(covering) if covering else own[ports]
        if effect != covering:
            closed[ports] = effect
    return closed
