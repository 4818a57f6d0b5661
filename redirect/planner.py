"""From resolved policies to the entries of the kernel's maps. Pure.

As only the longest prefix is seen, an entry holds the effect of every shorter one of its identity too.

A policy's number is a hash of its entries. Endpoints with equal rules share one copy, a changed policy arrives under a
new number beside the old one, and an endpoint moves over in one write: no packet ever meets half a policy.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from hashlib import blake2b
from ipaddress import IPv6Network, ip_network
from types import MappingProxyType

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
from ..policies.workload import Endpoint
from .plan import (
    ALLOW,
    ANYONE,
    DEFAULT_PORTS,
    DENY,
    HOST,
    HOST_ENDPOINT,
    OPEN_POLICY,
    DatapathPlan,
    Effect,
    EndpointPolicies,
    Owner,
    PolicyKey,
    ProxyPorts,
    Verdict,
)
from .port_prefix import EVERYTHING, PortPrefix, split

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
