"""A world: all policies and endpoints at one moment, with every identity numbered and every policy resolved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType

from .endpoint_policy import EndpointPolicy
from .errors import PolicyError
from .identity import (
    CIDR_IDENTITIES,
    RESERVED_LABELS,
    WORKLOAD_IDENTITIES,
    IPNetwork,
    Reserved,
    cidr_labels,
    number_labels,
)
from .identity_index import IdentityIndex
from .labels import CIDR, CLUSTER_LABEL, NAMESPACE_LABEL, NAMESPACE_NAME_LABEL, Labels, workload_labels
from .model import Policy, PolicyKey, SecretRef
from .resolve import NamedPorts, PolicyPlan, RulePlan, Surroundings, assemble, fqdn_prefixes, services_meant
from .selector import Selector
from .service import Service
from .workload import Endpoint, IPAddress

_WORLDS: Mapping[IPNetwork, Reserved] = MappingProxyType(
    {IPv4Network("0.0.0.0/0"): Reserved.WORLD_IPV4, IPv6Network("::/0"): Reserved.WORLD_IPV6}
)


@dataclass(frozen=True, eq=False)
class World:
    """Immutable. Make one with `World.of`; what it shares with `previous` is the same object, not only equal.

    `endpoints` and `policies` are sorted by key, `identities` is number -> labels, `ipcache` prefix -> number (the
    longest prefix that holds an address counts, and only that).
    """

    policies: tuple[Policy, ...]
    endpoints: tuple[Endpoint, ...]
    identities: Mapping[int, Labels]
    ipcache: Mapping[IPNetwork, int]
    _around: Surroundings = field(repr=False)
    _plans: dict[PolicyKey, PolicyPlan] = field(repr=False)
    _selecting: Mapping[int, list[RulePlan]] = field(repr=False)
    _by_key: Mapping[str, Endpoint] = field(repr=False)
    _by_labels: Mapping[Labels, int] = field(repr=False)
    _previous_policies: dict[tuple[int, NamedPorts], tuple[list[RulePlan], EndpointPolicy]] = field(repr=False)
    _resolved: dict[tuple[int, NamedPorts], tuple[list[RulePlan], EndpointPolicy]] = field(
        repr=False, default_factory=dict
    )

    @classmethod
    def of(
        cls,
        policies: Iterable[Policy],
        endpoints: Iterable[Endpoint],
        *,
        previous: World | None = None,
        hosts: Iterable[IPAddress] = (),
        services: Iterable[Service] = (),
        names: Mapping[str, frozenset[IPAddress]] | None = None,
        secrets: Mapping[SecretRef, str] | None = None,
    ) -> World:
        """The world of these policies and endpoints, whatever their order.

        `previous` makes a small change cheap. `hosts` are the node's own addresses (identity `host`), `services` what
        toServices may name, `names` the addresses that DNS answers have shown, `secrets` values for header matches.
        The endpoints' identities are computed here (see `number_labels`). Raises PolicyError when two policies or two
        endpoints have one key.
        """
        ordered = tuple(sorted(policies, key=lambda policy: policy.key))
        _refuse_twice("policies", (f"{policy.key.kind} {policy.key}" for policy in ordered))
        numbered, by_labels = _number_endpoints(endpoints)
        _refuse_twice("endpoints", (endpoint.key for endpoint in numbered))
        services, names = tuple(services), names or {}
        cidrs = _number_cidrs(_prefixes(ordered, services, names))
        identities = {**RESERVED_LABELS, **{number: labels for labels, number in by_labels.items()}}
        identities |= {number: cidr_labels(prefix) for prefix, number in cidrs.items()}
        around = _surroundings(identities, cidrs, numbered, services, names, secrets or {}, previous)
        plans = _plan(ordered, around, previous)
        selecting: defaultdict[int, list[RulePlan]] = defaultdict(list)
        for plan in plans.values():
            for rule in plan.rules:
                for number in rule.subjects:
                    selecting[number].append(rule)
        return cls(
            ordered,
            numbered,
            MappingProxyType(identities),
            MappingProxyType(_ipcache(cidrs, numbered, hosts)),
            around,
            plans,
            selecting,
            {endpoint.key: endpoint for endpoint in numbered},
            by_labels,
            previous._resolved if previous is not None else {},
        )

    def endpoint(self, key: str) -> Endpoint | None:
        """The endpoint with this namespace/name."""
        return self._by_key.get(key)

    def identity_of(self, labels: Labels) -> int | None:
        """The number of a workload's full label set (see `workload_labels`); None when no endpoint has it."""
        return self._by_labels.get(labels)

    def identity_at(self, address: IPAddress) -> int:
        """The identity behind an address: that of the longest prefix in `ipcache` that holds it."""
        for length in range(address.max_prefixlen, -1, -1):
            number = self.ipcache.get(ip_network((address, length), strict=False))
            if number is not None:
                return number
        return int(Reserved.WORLD)

    def select(self, selector: Selector) -> frozenset[int]:
        """The identities that a selector means."""
        return self._around.index.select(selector)

    def policy_of(self, endpoint: Endpoint) -> EndpointPolicy:
        """The resolved policy of one of the world's endpoints; replicas share one object."""
        known = self._by_key.get(endpoint.key, endpoint)
        ports = tuple(sorted(known.workload.ports.items()))
        cached = self._resolved.get((known.identity, ports))
        if cached is None:
            plans = self._selecting.get(known.identity, [])
            before = self._previous_policies.get((known.identity, ports))
            cached = before if before is not None and before[0] == plans else (plans, assemble(plans, ports))
            self._resolved[known.identity, ports] = cached
        return cached[1]

    def policies_of(self, endpoint: Endpoint) -> tuple[Policy, ...]:
        """The policies that select the endpoint, sorted by key."""
        known = self._by_key.get(endpoint.key, endpoint)
        plans = self._selecting.get(known.identity, [])
        return tuple({plan.policy.key: plan.policy for plan in plans}.values())

    def peer_name(self, number: int) -> str:
        """An identity for people: `reserved:world`, `cidr:10.0.0.0/8`, or its labels without the implicit ones."""
        labels = self.identities.get(number)
        if labels is None:
            return f"identity {number}"
        if number in RESERVED_LABELS:
            return f"reserved:{Reserved(number).label}"
        if number in CIDR_IDENTITIES:
            return next(str(label) for label in labels if label.source == CIDR)
        namespace = next((label.value for label in labels if label.key == NAMESPACE_LABEL), "")
        implicit = (NAMESPACE_LABEL, NAMESPACE_NAME_LABEL, CLUSTER_LABEL)
        own = ",".join(f"{label.key}={label.value}" for label in labels if label.key not in implicit)
        return f"{own or 'no labels'} in {namespace}"


def _refuse_twice(what: str, keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise PolicyError(f"two {what} are called {key}: rename or remove one of them")
        seen.add(key)


def _number_endpoints(endpoints: Iterable[Endpoint]) -> tuple[tuple[Endpoint, ...], dict[Labels, int]]:
    labelled = [
        (workload_labels(endpoint.workload.namespace, endpoint.workload.labels), endpoint)
        for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.key)
    ]
    by_labels = number_labels((labels for labels, _ in labelled), WORKLOAD_IDENTITIES)
    numbered = tuple(
        endpoint if endpoint.identity == by_labels[labels] else replace(endpoint, identity=by_labels[labels])
        for labels, endpoint in labelled
    )
    return numbered, by_labels


def _prefixes(
    policies: Iterable[Policy], services: tuple[Service, ...], names: Mapping[str, frozenset[IPAddress]]
) -> set[IPNetwork]:
    """Every prefix that a policy tells apart; each gets an identity of its own."""
    found: set[IPNetwork] = set()
    for policy in policies:
        for rule in policy.rules:
            for entry in (*rule.ingress, *rule.egress):
                if entry.peers is None:
                    continue
                for block in entry.peers.blocks:
                    found.add(block.cidr)
                    found.update(block.exceptions)
                if entry.peers.fqdns:
                    found |= fqdn_prefixes(entry.peers.fqdns, names)
                for reference in entry.peers.services:
                    for service in services_meant(reference, services):
                        found.update(ip_network(address) for address in service.ips)
    return found - _WORLDS.keys()


def _number_cidrs(prefixes: set[IPNetwork]) -> dict[IPNetwork, int]:
    by_labels = {cidr_labels(prefix): prefix for prefix in prefixes}
    return {by_labels[labels]: number for labels, number in number_labels(by_labels, CIDR_IDENTITIES).items()}


def _ports_by_name(endpoints: Iterable[Endpoint]) -> dict[str, dict[int, frozenset[int]]]:
    found: defaultdict[str, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for endpoint in endpoints:
        for name, number in endpoint.workload.ports.items():
            found[name][number].add(endpoint.identity)
    return {name: {number: frozenset(having) for number, having in ports.items()} for name, ports in found.items()}


def _surroundings(
    identities: dict[int, Labels],
    cidrs: dict[IPNetwork, int],
    endpoints: tuple[Endpoint, ...],
    services: tuple[Service, ...],
    names: Mapping[str, frozenset[IPAddress]],
    secrets: Mapping[SecretRef, str],
    previous: World | None,
) -> Surroundings:
    """As in `previous` when nothing there has changed, so that its plans stay valid."""
    old = previous._around if previous is not None else None
    if old is not None and old.index.labels == identities and old.index.cidrs == cidrs:
        index = old.index
    else:
        index = IdentityIndex(identities, cidrs)
    around = Surroundings(index, _ports_by_name(endpoints), services, names, secrets)
    return old if old is not None and old == around else around


def _plan(policies: Iterable[Policy], around: Surroundings, previous: World | None) -> dict[PolicyKey, PolicyPlan]:
    """A plan for each policy; the previous one wherever it would come out equal."""
    old_plans = previous._plans if previous is not None else {}
    unchanged = previous is not None and previous._around is around
    plans: dict[PolicyKey, PolicyPlan] = {}
    for policy in policies:
        old = old_plans.get(policy.key)
        if old is not None and not (old.policy is policy or old.policy == policy):
            old = None
        if old is None or not unchanged:
            new = PolicyPlan(policy, around)
            old = old if old is not None and old.same_as(new) else new
        plans[policy.key] = old
    return plans


def _ipcache(
    cidrs: Mapping[IPNetwork, int], endpoints: Iterable[Endpoint], hosts: Iterable[IPAddress]
) -> dict[IPNetwork, int]:
    """Endpoints and the host win over a CIDR of the same length; a shorter CIDR loses by being shorter."""
    found = {prefix: int(number) for prefix, number in _WORLDS.items()}
    found.update(cidrs)
    for address in hosts:
        found[ip_network(address)] = int(Reserved.HOST)
    for endpoint in endpoints:
        for address in endpoint.ips:
            found[ip_network(address)] = endpoint.identity
    return found
