"""A world: all policies and endpoints at one moment, with every identity numbered and every policy resolved."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_network
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

from .endpoint_policy import EndpointPolicy
from .errors import PolicyError
from .fqdn import LearnedIdentities, learned_labels
from .frontends import Frontends, frontends_of
from .identity import (
    CIDR_IDENTITIES,
    RESERVED_LABELS,
    WORKLOAD_IDENTITIES,
    IPNetwork,
    Reserved,
    cidr_labels,
    network_of,
    number_labels,
)
from .identity_index import IdentityIndex
from .ipcache import fitting_of, ipcache_of, number_addresses, prefixes_of, selectors_of
from .labels import (
    CIDR,
    CLUSTER_LABEL,
    FQDN,
    K8S,
    NAMESPACE_LABEL,
    NAMESPACE_NAME_LABEL,
    RESERVED,
    Label,
    Labels,
    workload_labels,
)
from .model import NOTHING_NAMED, Policy, PolicyKey, SecretRef
from .node import Node, identities_of
from .plans import Plans
from .resolve import NamedPorts, RulePlan, Surroundings, assemble
from .selector import Selector
from .service import Service
from .tls_secret import TlsSecrets
from .workload import Endpoint, IPAddress, Workload

_T = TypeVar("_T", Policy, Endpoint)

_API_SERVER_HERE: Labels = tuple(
    sorted((*RESERVED_LABELS[Reserved.HOST], Label(RESERVED, Reserved.KUBE_APISERVER.label)))
)
_FEW = 8  # a change of more than one policy in so many is no small one
_NODES: Mapping[int, str] = MappingProxyType(
    {
        int(Reserved.HOST): "this node",
        int(Reserved.REMOTE_NODE): "another node",
        int(Reserved.KUBE_APISERVER): "the cluster's API",
    }
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
    _plans: Plans = field(repr=False)
    _by_key: Mapping[str, Endpoint] = field(repr=False)
    _by_labels: Mapping[Labels, int] = field(repr=False)
    _cidrs: Mapping[IPNetwork, int] = field(repr=False)
    _learned: LearnedIdentities = field(repr=False)
    _previous_policies: dict[tuple[int, NamedPorts], tuple[Sequence[RulePlan], EndpointPolicy]] = field(repr=False)
    _resolved: dict[tuple[int, NamedPorts], tuple[Sequence[RulePlan], EndpointPolicy]] = field(
        repr=False, default_factory=dict
    )
    broadcasts: frozenset[IPAddress] = frozenset()

    @classmethod
    def of(
        cls,
        policies: Iterable[Policy],
        endpoints: Iterable[Endpoint],
        *,
        previous: World | None = None,
        hosts: Iterable[IPAddress] = (),
        broadcasts: Iterable[IPAddress] = (),
        services: Iterable[Service] = (),
        nodes: Iterable[Node] = (),
        names: Mapping[str, frozenset[IPAddress]] | None = None,
        secrets: Mapping[SecretRef, str] | None = None,
        tls: TlsSecrets | None = None,
        node_labels: Mapping[str, str] | None = None,
    ) -> World:
        """The world of these policies and endpoints, whatever their order.

        `previous` makes a small change cheap. `hosts` are the node's own addresses (identity `host`), `broadcasts`
        those of them that stand for a whole link when the node sends there. `services` are what toServices may name,
        `nodes` those of the cluster (identity `remote-node` or `kube-apiserver`), `names` the addresses that DNS
        answers have shown, `secrets` values for header matches and `tls` those for TLS contexts.
        `node_labels` are the node's, for nodeSelector.
        The endpoints' identities are computed here (see `number_labels`). Raises PolicyError when two policies or two
        endpoints have one key.
        """
        ordered, new, gone = _ordered(tuple(policies), previous)
        numbered, by_labels = _number_endpoints(endpoints)
        _refuse_twice("endpoints", numbered, lambda endpoint: endpoint.key)
        services, hosts = tuple(services), tuple(hosts)
        if previous is not None and services == previous._around.services and not _name_something(new, gone):
            selectors, prefixes = previous._learned.selectors, {*previous._cidrs}
        else:
            known = previous._learned.selectors if previous is not None else None
            selectors, prefixes = selectors_of(ordered, known), prefixes_of(ordered, services)
        fitting = fitting_of(selectors, names or {})
        cidrs, learned = number_addresses(prefixes, selectors, fitting)
        of_nodes = dict(identities_of(nodes))
        identities = {**RESERVED_LABELS, **{number: labels for labels, number in by_labels.items()}}
        if any(of_nodes.get(address) is Reserved.KUBE_APISERVER for address in hosts):
            identities[int(Reserved.HOST)] = _API_SERVER_HERE
        identities |= {number: cidr_labels(prefix) for prefix, number in cidrs.items()}
        identities |= {number: learned_labels(place) for place, number in learned.numbers.items()}
        around = _surroundings(
            identities,
            cidrs,
            learned,
            numbered,
            services,
            secrets or {},
            tls or TlsSecrets(),
            _labels_of_node(node_labels or {}),
            previous,
        )
        if previous is not None and previous._around is around:
            plans = previous._plans.changed(new, gone, around)
        else:
            plans = Plans.of(ordered, around, previous._plans if previous is not None else None)
        return cls(
            ordered,
            numbered,
            MappingProxyType(identities),
            MappingProxyType(ipcache_of(cidrs, learned.owners(fitting), services, numbered, hosts, of_nodes)),
            around,
            plans,
            {endpoint.key: endpoint for endpoint in numbered},
            by_labels,
            cidrs,
            learned,
            previous._resolved if previous is not None else {},
            broadcasts=frozenset(broadcasts),
        )

    def with_addresses(self, changes: Mapping[IPAddress, frozenset[str]]) -> World | None:
        """This world when DNS answers have shown these names, and no others, for each of these addresses.

        An address without names is forgotten. Everything but `ipcache` stays the same.

        Returns None when an address would need an identity that does not exist yet; then `World.of` makes one.
        """
        ipcache = dict(self.ipcache)
        for address, names in changes.items():
            network = ip_network(address)
            held = ipcache.get(network)
            if held is not None and held not in CIDR_IDENTITIES:
                continue  # an endpoint or the host
            rules = self._learned.selectors.fitting(names)
            number = self._learned.number(address, rules) if rules else self._cidrs.get(network)
            if number is not None:
                ipcache[network] = number
            elif rules:
                return None
            else:
                ipcache.pop(network, None)
        return self if ipcache == self.ipcache else replace(self, ipcache=MappingProxyType(ipcache))

    def asks_for(self, name: str) -> bool:
        """True when a toFQDNs means this name (lower-case, without the final dot)."""
        return bool(self._learned.selectors.fitting((name,)))

    def tells_the_same(self, other: World) -> bool:
        """False when Envoy or the kernel must know of the difference between this world and one made from it."""
        return (self.policies, self.endpoints, self.ipcache, self._around) == (
            other.policies,
            other.endpoints,
            other.ipcache,
            other._around,
        )

    @property
    def tls(self) -> TlsSecrets:
        """The secrets of TLS contexts."""
        return self._around.tls

    @cached_property
    def frontends(self) -> Frontends:
        """The services' own addresses, and who serves behind them."""
        services = self._around.services
        owned: dict[IPNetwork, str] = {}
        if any(service.vips for service in services):
            owned = {prefix: _NODES[number] for prefix, number in self.ipcache.items() if number in _NODES}
            owned |= {network_of(ip): f"workload {endpoint.key}" for endpoint in self.endpoints for ip in endpoint.ips}
        return frontends_of(services, self.endpoints, owned)

    @cached_property
    def host(self) -> Endpoint | None:
        """The node itself, when a policy selects it. It is none of `endpoints`, and no interface is its own."""
        if not self._plans.selecting.get(int(Reserved.HOST)):
            return None
        return Endpoint(Workload("reserved:host", "", ()), int(Reserved.HOST), ())

    def endpoint(self, key: str) -> Endpoint | None:
        """The endpoint with this namespace/name."""
        return self._by_key.get(key)

    def identity_of(self, labels: Labels) -> int | None:
        """The number of a workload's full label set (see `workload_labels`); None when no endpoint has it."""
        return self._by_labels.get(labels)

    def identity_at(self, address: IPAddress) -> int:
        """The identity behind an address: that of the longest prefix in `ipcache` that holds it."""
        number = self.ipcache.get(ip_network(address))
        if number is None:
            # Other than whole addresses the ipcache holds the prefixes of the policies and the worlds.
            prefix = self._learned.prefixes.find(address)
            return int(Reserved.WORLD) if prefix is None else self.ipcache[prefix]
        return number

    def select(self, selector: Selector) -> frozenset[int]:
        """The identities that a selector means."""
        return self._around.index.select(selector)

    def policy_of(self, endpoint: Endpoint) -> EndpointPolicy:
        """The resolved policy of one of the world's endpoints; replicas share one object."""
        known = self._by_key.get(endpoint.key, endpoint)
        ports = tuple(sorted(known.workload.ports.items()))
        cached = self._resolved.get((known.identity, ports))
        if cached is None:
            plans = self._plans.selecting.get(known.identity, ())
            before = self._previous_policies.get((known.identity, ports))
            cached = before if before is not None and before[0] == plans else (plans, assemble(plans, ports))
            self._resolved[known.identity, ports] = cached
        return cached[1]

    def policies_of(self, endpoint: Endpoint) -> tuple[Policy, ...]:
        """The policies that select the endpoint, sorted by key."""
        known = self._by_key.get(endpoint.key, endpoint)
        plans = self._plans.selecting.get(known.identity, ())
        return tuple({plan.policy.key: plan.policy for plan in plans}.values())

    def peer_name(self, number: int) -> str:
        """An identity for people: `reserved:world`, `cidr:10.0.0.0/8`, or its labels without the implicit ones."""
        labels = self.identities.get(number)
        if labels is None:
            return f"identity {number}"
        if number in RESERVED_LABELS:
            return f"reserved:{Reserved(number).label}"
        if number in CIDR_IDENTITIES:
            return ",".join(str(label) for label in labels if label.source in (CIDR, FQDN))
        namespace = next((label.value for label in labels if label.key == NAMESPACE_LABEL), "")
        implicit = (NAMESPACE_LABEL, NAMESPACE_NAME_LABEL, CLUSTER_LABEL)
        own = ",".join(f"{label.key}={label.value}" for label in labels if label.key not in implicit)
        return f"{own or 'no labels'} in {namespace}"


def _ordered(
    policies: tuple[Policy, ...], previous: World | None
) -> tuple[tuple[Policy, ...], list[Policy], list[Policy]]:
    """The policies by key, those of them that are not the previous world's very objects, and those of the previous
    world that are not among them. Of few changes it costs no more than a look at each policy's id.

    Raises PolicyError when two have one key.
    """
    before = previous.policies if previous is not None else ()
    ids, known = set(map(id, policies)), set(map(id, before))
    new = [policy for policy in policies if id(policy) not in known]
    gone = [policy for policy in before if id(policy) not in ids]
    if len(new) > len(before) // _FEW or len(ids) < len(policies):
        ordered = sorted(policies, key=_key)
        _refuse_twice("policies", ordered, _name)
    else:
        ordered = [policy for policy in before if id(policy) in ids] if gone else [*before]
        for policy in new:
            at = bisect_left(ordered, policy.key, key=_key)
            _refuse_twice("policies", (policy, *ordered[at : at + 1]), _name)
            ordered.insert(at, policy)
    return tuple(ordered), new, gone


def _key(policy: Policy) -> PolicyKey:
    return policy.key


def _name(policy: Policy) -> str:
    return f"{policy.key.kind} {policy.key}"


def _name_something(*policies: Iterable[Policy]) -> bool:
    """True when one of them may change which prefixes and names have an identity of their own."""
    return any(policy.named != NOTHING_NAMED for part in policies for policy in part)


def _refuse_twice(what: str, ordered: Sequence[_T], name: Callable[[_T], str]) -> None:
    """Of things that are sorted by their keys."""
    for one, other in pairwise(ordered):
        if one.key == other.key:
            raise PolicyError(f"two {what} are called {name(one)}: rename or remove one of them")


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


def _ports_by_name(endpoints: Iterable[Endpoint]) -> dict[str, dict[int, frozenset[int]]]:
    found: defaultdict[str, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for endpoint in endpoints:
        for name, number in endpoint.workload.ports.items():
            found[name][number].add(endpoint.identity)
    return {name: {number: frozenset(having) for number, having in ports.items()} for name, ports in found.items()}


def _labels_of_node(labels: Mapping[str, str]) -> Labels:
    own = {Label(K8S, key, value) for key, value in labels.items()}
    return tuple(sorted({*own, *RESERVED_LABELS[Reserved.HOST]}))


def _surroundings(
    identities: dict[int, Labels],
    cidrs: dict[IPNetwork, int],
    learned: LearnedIdentities,
    endpoints: tuple[Endpoint, ...],
    services: tuple[Service, ...],
    secrets: Mapping[SecretRef, str],
    tls: TlsSecrets,
    node_labels: Labels,
    previous: World | None,
) -> Surroundings:
    """As in `previous` when nothing there has changed, so that its plans stay valid."""
    old = previous._around if previous is not None else None
    if old is not None and old.index.labels == identities and old.index.cidrs == cidrs:
        index = old.index
    else:
        index = IdentityIndex(identities, cidrs, ((prefix, number) for (prefix, _), number in learned.numbers.items()))
    around = Surroundings(index, _ports_by_name(endpoints), services, secrets, tls, node_labels)
    return old if old is not None and old == around else around
