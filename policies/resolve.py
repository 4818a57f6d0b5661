"""From a policy as written to rules over numbers: selectors become identities, port names become ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from types import MappingProxyType
from typing import TypeAlias

from .endpoint_policy import (
    DirectionPolicy,
    DnsRule,
    DnsRules,
    EndpointPolicy,
    HeaderMatch,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    L7Rules,
    PortSpan,
    ResolvedRule,
    RuleOrigin,
)
from .identity import Reserved
from .identity_index import IdentityIndex
from .labels import Labels, workload_labels
from .model import (
    L7,
    Block,
    Entry,
    HeaderCondition,
    HttpCondition,
    HttpConditions,
    Peers,
    Policy,
    Port,
    Rule,
    SecretRef,
    ServiceRef,
)
from .service import Service
from .tls_secret import TlsSecrets

NamedPorts: TypeAlias = tuple[tuple[str, int], ...]  # sorted

# The local host reaches its endpoints whatever the policies allow; only a deny stops it. As in the reference
# (https://docs.cilium.io/en/stable/security/policy/intro/, "allow-localhost").
LOCAL_HOST = ResolvedRule(
    RuleOrigin("Implicit", "", "local-host", "built-in", "", 0),
    deny=False,
    peers=frozenset({int(Reserved.HOST)}),
    ports=None,
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What resolving needs to know beyond the policy.

    `ports_by_name` says which identities have a port of that name, by its number. `secrets` are the values that header
    matches may refer to, `tls` what TLS contexts may.
    """

    index: IdentityIndex
    ports_by_name: Mapping[str, Mapping[int, frozenset[int]]] = field(default_factory=lambda: MappingProxyType({}))
    services: tuple[Service, ...] = ()
    secrets: Mapping[SecretRef, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    tls: TlsSecrets = field(default_factory=TlsSecrets, repr=False)
    node_labels: Labels = ()


def _subjects(rule: Rule, around: Surroundings) -> frozenset[int]:
    """The node itself is selected by nodeSelector, and by nothing else."""
    if rule.node:
        return frozenset({int(Reserved.HOST)}) if rule.subject.matches(around.node_labels) else frozenset()
    selected = around.index.select(rule.subject)  # shared by all that select the same
    return selected - {int(Reserved.HOST)} if Reserved.HOST in selected else selected


class PolicyPlan:
    """One policy resolved, for whichever endpoints it selects."""

    __slots__ = ("policy", "rules")

    def __init__(self, policy: Policy, around: Surroundings) -> None:
        self.policy = policy
        self.rules = tuple(RulePlan(policy, rule, around) for rule in policy.rules)

    def same_as(self, other: PolicyPlan) -> bool:
        """True when the two resolve alike, so that the older one can stay."""
        return self.policy == other.policy and all(
            mine.facts() == theirs.facts() for mine, theirs in zip(self.rules, other.rules, strict=True)
        )


_NO_NAMES: frozenset[str] = frozenset()


class RulePlan:
    """One rule resolved. Ingress may depend on the port names of the endpoint it protects; all else is settled."""

    __slots__ = ("_around", "_egress", "_ingress", "_ingress_names", "_peers", "policy", "rule", "subjects")

    def __init__(self, policy: Policy, rule: Rule, around: Surroundings) -> None:
        self.rule = rule
        self.subjects = _subjects(rule, around)
        self.policy = policy
        self._around = around
        self._peers = tuple(resolve_peers(entry.peers, around) for entry in rule.ingress)
        names = {
            port.name for entry in rule.ingress for ports in entry.ports or () for port in ports.ports if port.name
        }
        self._ingress_names = frozenset(names) if names else _NO_NAMES
        self._ingress: dict[NamedPorts, tuple[ResolvedRule, ...]] = {}
        self._egress = tuple(
            resolved
            for entry in rule.egress
            for resolved in _resolve_entry(policy, rule, entry, resolve_peers(entry.peers, around), around, None)
        )
        self.ingress(())

    def facts(self) -> tuple[object, ...]:
        """All that the plan's answers depend on."""
        return self.subjects, self._egress, self._ingress[()], self._peers

    def ingress(self, named_ports: NamedPorts) -> tuple[ResolvedRule, ...]:
        """The ingress rules for an endpoint with these port names."""
        relevant = tuple(item for item in named_ports if item[0] in self._ingress_names) if self._ingress_names else ()
        if (found := self._ingress.get(relevant)) is None:
            ports = dict(relevant)
            found = tuple(
                resolved
                for entry, peers in zip(self.rule.ingress, self._peers, strict=True)
                for resolved in _resolve_entry(self.policy, self.rule, entry, peers, self._around, ports)
            )
            self._ingress[relevant] = found
        return found

    def egress(self) -> tuple[ResolvedRule, ...]:
        """The egress rules."""
        return self._egress


def assemble(plans: Iterable[RulePlan], named_ports: NamedPorts) -> EndpointPolicy:
    """The policy of an endpoint that these rules select."""
    ingress: list[ResolvedRule] = []
    egress: list[ResolvedRule] = []
    deny_ingress = deny_egress = False
    for plan in plans:
        deny_ingress |= plan.rule.deny_ingress
        deny_egress |= plan.rule.deny_egress
        ingress += plan.ingress(named_ports)
        egress += plan.egress()
    if deny_ingress:
        ingress.append(LOCAL_HOST)
    return EndpointPolicy(DirectionPolicy(deny_ingress, tuple(ingress)), DirectionPolicy(deny_egress, tuple(egress)))


def resolve_peers(peers: Peers | None, around: Surroundings) -> frozenset[int] | None:
    """The identities of the peers; None is anyone."""
    if peers is None:
        return None
    index = around.index
    found: list[frozenset[int]] = [index.select(selector) for selector in peers.endpoints]
    found += [index.block(block) for block in peers.blocks]
    for entity in peers.entities:
        members = index.entity(entity)
        if members is None:
            return None
        found.append(members)
    found += [index.fqdn(rule) for rule in peers.fqdns]
    found += [_service_identities(reference, around) for reference in peers.services]
    return found[0] if len(found) == 1 else frozenset[int]().union(*found)


def services_meant(reference: ServiceRef, services: Iterable[Service]) -> list[Service]:
    """The services that an entry of toServices names."""
    found = []
    for service in services:
        if reference.namespace is not None and service.namespace != reference.namespace:
            continue
        if reference.name is not None and service.name != reference.name:
            continue
        if reference.selector is not None and not reference.selector.matches(
            workload_labels(service.namespace, service.labels)
        ):
            continue
        found.append(service)
    return found


def _service_identities(reference: ServiceRef, around: Surroundings) -> frozenset[int]:
    found: set[int] = set()
    for service in services_meant(reference, around.services):
        found = found.union(*(around.index.block(Block(ip_network(address))) for address in service.addresses))
        found = found.union(*(around.index.select(selector) for selector in service.selectors))
    return frozenset(found)


def _resolve_entry(
    policy: Policy,
    rule: Rule,
    entry: Entry,
    peers: frozenset[int] | None,
    around: Surroundings,
    own_ports: Mapping[str, int] | None,
) -> Iterable[ResolvedRule]:
    """`own_ports` are the protected endpoint's named ports for ingress, None for egress (the peer's names count)."""
    key = policy.key
    if entry.ports is None:
        origin = RuleOrigin(key.kind, key.namespace, key.name, entry.path, policy.source, entry.line)
        yield ResolvedRule(origin, entry.deny, peers, None)
        return
    closed = rule.deny_egress if own_ports is None else rule.deny_ingress
    for ports in entry.ports:
        origin = RuleOrigin(key.kind, key.namespace, key.name, ports.path, policy.source, ports.line)
        l7, tls = resolve_l7(ports.l7, around.secrets, closed), around.tls.resolved(ports.tls)
        spans = [span for port in ports.ports if not port.name for span in _spans(port, port.first, port.last)]
        elsewhere: list[tuple[frozenset[int], list[PortSpan]]] = []
        for port in ports.ports:
            if not port.name:
                continue
            if own_ports is not None:
                number = own_ports.get(port.name)
                spans += _spans(port, number, number) if number is not None else []
                continue
            for number, having in sorted(around.ports_by_name.get(port.name, {}).items()):
                elsewhere.append((having if peers is None else having & peers, _spans(port, number, number)))
        if spans or not elsewhere:
            yield ResolvedRule(origin, entry.deny, peers, tuple(dict.fromkeys(spans)), l7, tls)
        for having, named in elsewhere:
            yield ResolvedRule(origin, entry.deny, having, tuple(named), l7, tls)


def _spans(port: Port, first: int, last: int) -> list[PortSpan]:
    return [PortSpan(protocol, first, last) for protocol in port.protocols]


def resolve_l7(l7: L7 | None, secrets: Mapping[SecretRef, str], closed: bool) -> L7Rules | None:
    """The request rules. With `closed` false (enableDefaultDeny) every other request passes as well."""
    match l7:
        case None:
            return None
        case HttpConditions():
            http = tuple(_http(condition, secrets) for condition in l7.http)
            return HttpRules(http if closed else (*http, HttpRule()), l7.grpc)
        case KafkaRules():
            return l7 if closed else KafkaRules((*l7.kafka, KafkaRule()))
        case DnsRules():
            return l7 if closed else DnsRules((*l7.dns, DnsRule(match_pattern="*")))


def _http(condition: HttpCondition, secrets: Mapping[SecretRef, str]) -> HttpRule:
    headers = tuple(_header(header, secrets) for header in condition.headers)
    return HttpRule(condition.path, condition.method, condition.host, headers)


def _header(header: HeaderCondition, secrets: Mapping[SecretRef, str]) -> HeaderMatch:
    """A value written beside the secret counts where the secret gives none, as in the reference
    (https://docs.cilium.io/en/stable/security/policy/language/, HeaderMatch)."""
    if header.secret is None:
        return HeaderMatch(header.name, header.value, header.mismatch)
    if (value := secrets.get(header.secret)) is not None:
        return HeaderMatch(header.name, value, header.mismatch, secret=True)
    lacks = "" if header.value is not None else str(header.secret)
    return HeaderMatch(header.name, header.value, header.mismatch, lacks=lacks)
