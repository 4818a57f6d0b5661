"""A policy as it was written: parsed and checked, with its selectors still selectors. `resolve` makes numbers of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from .endpoint_policy import LAST_PORT, DnsRule, DnsRules, GrpcRule, KafkaRules, MismatchAction, Protocol, TlsRules
from .identity import IPNetwork
from .selector import Selector


class PolicyKind(StrEnum):
    """The kinds of document that hold a policy."""

    CILIUM = "CiliumNetworkPolicy"
    CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
    KUBERNETES = "NetworkPolicy"

    __hash__ = str.__hash__  # a part of every policy's key, and Enum's own is slow


class PolicyKey(NamedTuple):
    """What makes a policy one and the same across versions. `namespace` is empty for a clusterwide policy."""

    kind: PolicyKind
    namespace: str
    name: str

    def __str__(self) -> str:
        """`namespace/name`, or just the name."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Entity(StrEnum):
    """Names for groups of peers (https://docs.cilium.io/en/stable/security/policy/language/#entities-based)."""

    ALL = "all"
    WORLD = "world"
    WORLD_IPV4 = "world-ipv4"
    WORLD_IPV6 = "world-ipv6"
    CLUSTER = "cluster"
    CLUSTER_MESH = "cluster-mesh"
    HOST = "host"
    REMOTE_NODE = "remote-node"
    KUBE_APISERVER = "kube-apiserver"
    INGRESS = "ingress"
    INIT = "init"
    HEALTH = "health"
    UNMANAGED = "unmanaged"
    NONE = "none"


class Block(NamedTuple):
    """Addresses inside `cidr` and outside every one of `exceptions`."""

    cidr: IPNetwork
    exceptions: tuple[IPNetwork, ...] = ()


class ServiceRef(NamedTuple):
    """A service by name, or services by their labels. `namespace` None is every namespace."""

    name: str | None
    selector: Selector | None
    namespace: str | None


@dataclass(frozen=True, slots=True)
class Peers:
    """Whom an entry speaks about: the union of all of these; with nothing in it, nobody."""

    endpoints: tuple[Selector, ...] = ()
    blocks: tuple[Block, ...] = ()
    entities: tuple[Entity, ...] = ()
    fqdns: tuple[DnsRule, ...] = ()
    services: tuple[ServiceRef, ...] = ()


class Port(NamedTuple):
    """Ports `first`..`last` of the protocols, or the port called `name` (first and last are 0 then)."""

    protocols: tuple[Protocol, ...]
    first: int = 0
    last: int = LAST_PORT
    name: str = ""


class SecretRef(NamedTuple):
    """A Kubernetes Secret by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class HeaderCondition(NamedTuple):
    """A header to match: by the value in `secret`, by `value` (also where the secret gives none), by presence when both
    are None."""

    name: str
    value: str | None = None
    secret: SecretRef | None = None
    mismatch: MismatchAction = MismatchAction.DENY


class HttpCondition(NamedTuple):
    """One entry of `rules.http`. path, method and host are RE2 over the whole value; None is any."""

    path: str | None = None
    method: str | None = None
    host: str | None = None
    headers: tuple[HeaderCondition, ...] = ()


class HttpConditions(NamedTuple):
    """`rules.http` or `rules.grpc`; one of the two has entries."""

    http: tuple[HttpCondition, ...] = ()
    grpc: tuple[GrpcRule, ...] = ()


L7: TypeAlias = HttpConditions | KafkaRules | DnsRules


@dataclass(frozen=True, slots=True)
class PortRule:
    """One entry of `toPorts` (or all of `icmps`). `l7` and `tls` are never set in a deny entry."""

    ports: tuple[Port, ...]
    l7: L7 | None = None
    tls: TlsRules | None = None
    path: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of ingress, ingressDeny, egress or egressDeny.

    `peers` None is anyone; `ports` None is every port of every protocol. (An entry `{}` of a CiliumNetworkPolicy, which
    is nobody, has empty `peers`.)
    """

    deny: bool
    peers: Peers | None
    ports: tuple[PortRule, ...] | None
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One `spec`: whom it protects and what it says about each direction.

    `deny_ingress` (`deny_egress`) is true when the rule turns the default of that direction from allow to deny. Where
    it is false (`enableDefaultDeny`), the rule's L7 entries let every other request through too.
    """

    subject: Selector
    ingress: tuple[Entry, ...]
    egress: tuple[Entry, ...]
    deny_ingress: bool
    deny_egress: bool
    path: str
    line: int
    node: bool = False  # the subject is the node itself, by its labels


class Named(NamedTuple):
    """What a policy names that the world has to have a number or an address for."""

    networks: frozenset[IPNetwork] = frozenset()
    fqdns: frozenset[DnsRule] = frozenset()
    services: tuple[ServiceRef, ...] = ()


NOTHING_NAMED = Named()


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole document. Equal when key, place and content are equal."""

    key: PolicyKey
    rules: tuple[Rule, ...]
    source: str
    line: int
    named: Named = field(init=False, compare=False, repr=False)  # in all rules together

    def __post_init__(self) -> None:
        peers = [entry.peers for rule in self.rules for entry in (*rule.ingress, *rule.egress) if entry.peers]
        blocks = [block for each in peers for block in each.blocks]
        found = Named(
            frozenset(network for block in blocks for network in (block.cidr, *block.exceptions)),
            frozenset(rule for each in peers for rule in each.fqdns),
            tuple(reference for each in peers for reference in each.services),
        )
        object.__setattr__(self, "named", NOTHING_NAMED if found == NOTHING_NAMED else found)

    def __str__(self) -> str:
        return str(self.key)
