"""Which filter chain of the TLS listener a connection takes: whom Envoy takes up, and with which secrets.

A matcher of the listener, asked once for each connection: own identity -> destination port -> peer identity -> TLS or
not -> server name -> the name of a chain. A chain stands for what is done, not for whom, so most changes of policies
change the matcher alone, and Envoy keeps every chain (and its connections) that has not changed itself.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener.proto (filter_chain_matcher)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..policies.endpoint_policy import Direction, HttpRules, Protocol, ResolvedRule, TlsRules
from ..policies.interception import Greeting, Interception, contexts_of, encrypts, take_up
from ..policies.proxy_kind import clash
from .matcher import (
    DESTINATION_IP,
    Input,
    Matcher,
    OnMatch,
    Predicate,
    act,
    descend,
    equals,
    exact_map,
    extension,
    first_of,
)
from .server_name import SERVER_NAME, is_named
from .subject import SUBJECT
from .tls_verdict import Predicates, faults
from .wire import text

CARRIED, OWN_ADDRESS = "encrypted", "own_address"  # chains that are always there
_LOOPBACK = ("127.0.0.1", "::1")
_TRANSPORT = Input(extension("transport", "envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput"))


def to_chain(name: str) -> OnMatch:
    """Take the filter chain of that name."""
    return act(extension("filter-chain", "google.protobuf.StringValue", text(1, name)))


# Says nothing, so that what stands around it is asked.
MISS = descend(first_of([(equals(_TRANSPORT, "none of all"), to_chain(CARRIED))]))


@dataclass(frozen=True, slots=True)
class Chain:
    """Connections that the policy of one direction has Envoy take up in one way."""

    direction: Direction
    does: Interception

    @property
    def name(self) -> str:
        """egress:http:default/web[tls.crt,tls.key,]:plain"""
        kind = "http" if self.does.http else "tcp"
        return f"{self.direction}:{kind}:{self.does.terminating or 'plain'}:{self.does.originating or 'plain'}"


def chain_matcher(egress: Mapping[str, OnMatch], ingress: Mapping[str, OnMatch]) -> Matcher:
    """The listener's matcher of the trees by own identity. The client's policy is asked first."""
    tree = to_chain(CARRIED)
    if ingress:
        tree = descend(exact_map(SUBJECT[Direction.INGRESS], ingress, tree))
    if egress:
        tree = descend(exact_map(SUBJECT[Direction.EGRESS], egress, tree))
    # A connection made to the listener itself would connect to itself for ever.
    return exact_map(DESTINATION_IP, dict.fromkeys(_LOOPBACK, to_chain(OWN_ADDRESS)), tree)


def chain_tree(direction: Direction, covering: Sequence[ResolvedRule]) -> tuple[OnMatch, frozenset[Chain]]:
    """The chains that connections of one peer and port take by their greeting; MISS for those that stay as they are."""
    return _Leaf(direction, covering).tree()


class _Leaf:
    def __init__(self, direction: Direction, covering: Sequence[ResolvedRule]) -> None:
        self._direction = direction
        self._covering = covering
        self._used: set[Chain] = set()
        self._about = [rule for rule in covering if any(contexts_of(rule))]

    def tree(self) -> tuple[OnMatch, frozenset[Chain]]:
        denied = any(rule.deny for rule in self._covering) or clash(self._covering, Protocol.TCP)
        if denied or not self._about:
            return MISS, frozenset()
        encrypted, plain = self._encrypted(), self._for(Greeting(False))
        if encrypted == plain == MISS:
            return MISS, frozenset()
        return descend(exact_map(_TRANSPORT, {"tls": encrypted, "raw_buffer": plain})), frozenset(self._used)

    def _for(self, greeting: Greeting) -> OnMatch:
        taken = take_up(self._covering, greeting)
        if taken.fault:
            return to_chain(CARRIED)  # where it is denied, unless allowed as it is
        return self._chain(taken.interception) if taken.interception is not None else MISS

    def _chain(self, does: Interception) -> OnMatch:
        chain = Chain(self._direction, does)
        self._used.add(chain)
        return to_chain(chain.name)

    def _encrypted(self) -> OnMatch:
        """Exact names in a map, each with all that speaks about it; then the patterns; then who names nobody."""
        nameless = self._for(Greeting(True))
        tree = nameless
        named = [rule for rule in self._about if rule.tls is not None and rule.tls.server_names]
        patterns = [rule for rule in named if any("*" in name for name in _names(rule))]
        if patterns and nameless != to_chain(CARRIED):
            tree = descend(first_of(self._by_pattern(patterns), nameless))
        exact = sorted({name for rule in named for name in _names(rule) if "*" not in name})
        if exact:
            tree = descend(exact_map(SERVER_NAME, {name: self._for(Greeting(True, name)) for name in exact}, tree))
        return tree

    def _by_pattern(self, patterns: Sequence[ResolvedRule]) -> list[tuple[Predicate, OnMatch]]:
        """Of names that no rule spells out. Where rules cannot all have their way the connection stays as it is."""
        everywhere = [rule for rule in self._about if rule.tls is not None and encrypts(rule.tls) and not _names(rule)]
        entries = [(predicate, to_chain(CARRIED)) for predicate in faults([*patterns, *everywhere], _spoken_about)]
        http_everywhere = any(isinstance(rule.l7, HttpRules) for rule in everywhere)
        for http in (True, False):
            for rule in (rule for rule in patterns if not any(each and each.lacks for each in contexts_of(rule))):
                if http is (http_everywhere or isinstance(rule.l7, HttpRules)):
                    entries.append((is_named(_names(rule)), self._chain(Interception(*contexts_of(rule), http))))
        return entries


def _names(rule: ResolvedRule) -> tuple[str, ...]:
    return rule.tls.server_names if rule.tls is not None else ()


def _spoken_about(tls: TlsRules) -> Predicates:
    """Of a TLS connection."""
    return (is_named(tls.server_names),) if tls.server_names else ()
