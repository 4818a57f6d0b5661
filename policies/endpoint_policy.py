"""The resolved policy of one endpoint: what `resolve` produces, and what Envoy and the kernel are told.

Everything here is immutable and free of names that only a cluster understands: selectors have become sets of
numeric identities, named ports have become numbers. `judge` (verdict.py) evaluates it, `xds` compiles it into
Envoy resources and `redirect` plans the kernel's maps from it; the three must agree on every flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias


class Direction(StrEnum):
    """Seen from the endpoint that the policy selects."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Protocol(StrEnum):
    """Transport protocols a policy can name. ANY in a policy has become all of TCP, UDP and SCTP here."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    ICMP = "ICMP"
    ICMPV6 = "ICMPv6"


LAST_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class PortSpan:
    """Ports `first`..`last`, both included. 0..65535 is every port; for ICMP the "port" is the message type."""

    protocol: Protocol
    first: int
    last: int

    def holds(self, protocol: Protocol, port: int) -> bool:
        """True when a packet of `protocol` to `port` falls into this span."""
        return self.protocol is protocol and self.first <= port <= self.last

    def __str__(self) -> str:
        if (self.first, self.last) == (0, LAST_PORT):
            return f"any/{self.protocol}"
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.protocol}"


@dataclass(frozen=True, slots=True, order=True)
class RuleOrigin:
    """Where a rule was written, so that every verdict, statistic and NACK names it."""

    kind: str  # CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy
    namespace: str  # empty for a clusterwide policy
    policy: str  # the policy's name
    path: str  # where in the document: spec.ingress[0].toPorts[0]
    source: str  # file the policy was read from
    line: int  # line of `path` in that file, from 1

    def __str__(self) -> str:
        """The short form: default/api-access-control:spec.ingress[0].toPorts[0]."""
        name = f"{self.namespace}/{self.policy}" if self.namespace else self.policy
        return f"{name}:{self.path}"


class MismatchAction(StrEnum):
    """What a header match does when it does not hold (CiliumNetworkPolicy, `headerMatches[].mismatch`)."""

    DENY = ""
    LOG = "LOG"
    ADD = "ADD"
    DELETE = "DELETE"
    REPLACE = "REPLACE"


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """One header condition. `value` None asks for presence only. Names are lower-cased, values case-sensitive."""

    name: str
    value: str | None = None
    mismatch: MismatchAction = MismatchAction.DENY
    secret: bool = False  # the value came from a secret: never print it
    lacks: str = ""  # the secret (namespace/name) that gives no value: then the condition never holds

    def __repr__(self) -> str:
        value = "[secret]" if self.secret else repr(self.value)
        lacks = f", lacks={self.lacks!r}" if self.lacks else ""
        return f"HeaderMatch({self.name!r}, {value}, {self.mismatch.name}{lacks})"


@dataclass(frozen=True, slots=True)
class HttpRule:
    """path, method and host are RE2 over the whole value; None is any. The path is `:path` with its query string."""

    path: str | None = None
    method: str | None = None
    host: str | None = None
    headers: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class GrpcRule:
    """A gRPC method by full service name; `method` None is every method of the service."""

    service: str
    method: str | None = None


@dataclass(frozen=True, slots=True)
class KafkaRule:
    """One Kafka condition, with roles already expanded. None is any; an empty `api_keys` is every API."""

    api_keys: frozenset[int] = frozenset()
    api_version: int | None = None
    client_id: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class DnsRule:
    """A DNS name or a pattern with `*`; exactly one is set. Lower-cased, without the final dot."""

    match_name: str | None = None
    match_pattern: str | None = None


@dataclass(frozen=True, slots=True)
class HttpRules:
    """`rules.http` (and `rules.grpc`): the request is allowed when one of them matches. Never empty."""

    http: tuple[HttpRule, ...] = ()
    grpc: tuple[GrpcRule, ...] = ()


@dataclass(frozen=True, slots=True)
class KafkaRules:
    """`rules.kafka`. Never empty."""

    kafka: tuple[KafkaRule, ...]


@dataclass(frozen=True, slots=True)
class DnsRules:
    """`rules.dns`. Never empty."""

    dns: tuple[DnsRule, ...]


@dataclass(frozen=True, slots=True)
class TlsContext:
    """A secret for TLS with one side of a connection, and the entries of it that are used ("" is none).

    `lacks` is why the secret cannot be used: then what needs it is denied.
    """

    secret: tuple[str, str]  # (namespace, name)
    certificate: str = ""
    private_key: str = ""
    trusted_ca: str = ""
    lacks: str = ""

    def __str__(self) -> str:
        """Whose secret, and its entries."""
        return f"{'/'.join(self.secret)}[{self.certificate},{self.private_key},{self.trusted_ca}]"


@dataclass(frozen=True, slots=True)
class TlsRules:
    """`serverNames` and the two TLS contexts: what the connection must look like before (or instead of) L7 rules, and
    what Envoy does with it. A rule with server names or `terminating` is about TLS connections, any other about those
    that are not."""

    server_names: tuple[str, ...] = ()
    terminating: TlsContext | None = None
    originating: TlsContext | None = None


L7Rules: TypeAlias = HttpRules | KafkaRules | DnsRules


@dataclass(frozen=True, slots=True)
class ResolvedRule:
    """One entry of one rule of one policy, with its peers and ports as numbers.

    `peers` None is anyone, an empty set is nobody. `ports` None is every port of every protocol (an L3 rule).
    `l7` None is a plain L3/L4 rule; a deny rule never has `l7` or `tls`.
    """

    origin: RuleOrigin
    deny: bool
    peers: frozenset[int] | None
    ports: tuple[PortSpan, ...] | None
    l7: L7Rules | None = None
    tls: TlsRules | None = None

    def covers(self, peer: int, protocol: Protocol, port: int) -> bool:
        """True when the rule speaks about this peer identity and port."""
        if self.peers is not None and peer not in self.peers:
            return False
        return self.ports is None or any(span.holds(protocol, port) for span in self.ports)

    @property
    def redirects(self) -> bool:
        """True when connections that the rule covers must go through Envoy."""
        return self.l7 is not None or self.tls is not None


@dataclass(frozen=True)
class DirectionPolicy:
    """All rules about one direction. With `default_deny` false, what no rule denies is allowed (and an L7 rule then
    also lets every other request through, see enableDefaultDeny)."""

    default_deny: bool = False
    rules: tuple[ResolvedRule, ...] = ()

    # Asked with every change of any policy, of all that have not changed.

    @cached_property
    def redirects(self) -> bool:
        """True when at least one rule needs a proxy."""
        return any(rule.redirects for rule in self.rules)

    @cached_property
    def needs_envoy(self) -> bool:
        """True when at least one rule needs Envoy; dns rules do not."""
        return any(rule.redirects and not isinstance(rule.l7, DnsRules) for rule in self.rules)

    @cached_property
    def about_tls(self) -> bool:
        """True when a rule is about TLS connections."""
        return any(rule.tls is not None for rule in self.rules)

    @cached_property
    def about_kafka(self) -> bool:
        """True when a rule judges Kafka requests."""
        return any(isinstance(rule.l7, KafkaRules) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """Both directions. Equal for endpoints with equal labels and named ports: replicas share one value."""

    ingress: DirectionPolicy = DirectionPolicy()
    egress: DirectionPolicy = DirectionPolicy()

    def direction(self, direction: Direction) -> DirectionPolicy:
        """The half of `direction`."""
        return self.ingress if direction is Direction.INGRESS else self.egress
