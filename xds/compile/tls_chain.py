"""Which filter chain of the TLS listener a connection takes: whom Envoy takes up, and with which secrets.

A matcher of the listener, asked once for each connection: own identity -> destination port -> peer identity -> TLS or
not -> server name -> the name of a chain. A chain stands for what is done, not for whom, so most changes of policies
change the matcher alone, and Envoy keeps every chain (and its connections) that has not changed itself.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener.proto (filter_chain_matcher)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...policies.endpoint_policy import Direction, HttpRules, Protocol, ResolvedRule
from ...policies.interception import Greeting, Interception, contexts_of, encrypts, take_up
from ...policies.proxy_kind import clash
from ..wire import text
from .matcher import (
    DESTINATION_IP,
    Input,
    Matcher,
    OnMatch,
    act,
    all_of,
    descend,
    equals,
    exact_map,
    extension,
    first_of,
)
from .server_name import Held, server_name_tree
from .subject import OWN
from .tls_verdict import faults, names_of

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
        """By what it does."""
        return self.does.called(self.direction)


def chain_matcher(egress: Mapping[str, OnMatch], ingress: Mapping[str, OnMatch]) -> Matcher:
    """The listener's matcher of the trees by own identity. The client's policy is asked first."""
    tree = to_chain(CARRIED)
    if ingress:
        tree = descend(exact_map(OWN[Direction.INGRESS], ingress, tree))
    if egress:
        tree = descend(exact_map(OWN[Direction.EGRESS], egress, tree))
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
        encrypted, plain = self._encrypted(), self._plain()
        if encrypted == plain == MISS:
            return MISS, frozenset()
        return descend(exact_map(_TRANSPORT, {"tls": encrypted, "raw_buffer": plain})), frozenset(self._used)

    def _plain(self) -> OnMatch:
        taken = take_up(self._covering, Greeting(False))
        if taken.fault:
            return to_chain(CARRIED)  # where it is denied, unless allowed as it is
        return self._chain(taken.interception) if taken.interception is not None else MISS

    def _chain(self, does: Interception) -> OnMatch:
        chain = Chain(self._direction, does)
        self._used.add(chain)
        return to_chain(chain.name)

    def _encrypted(self) -> OnMatch:
        """By the server name. Where rules cannot all have their way the connection stays as it is."""
        about = [rule for rule in self._about if rule.tls is not None and encrypts(rule.tls)]
        if not about:
            return MISS

        def say(held: Held) -> OnMatch:
            spoken = [(about[at], predicates) for at, predicates in held.items()]
            amiss = list(faults(spoken))
            if () in amiss:
                return to_chain(CARRIED)
            always = [rule for rule, predicates in spoken if not predicates]
            reads_all = any(isinstance(rule.l7, HttpRules) for rule in always)
            otherwise = self._chain(Interception(*contexts_of(always[0]), reads_all)) if always else MISS
            entries = [(all_of(predicates), to_chain(CARRIED)) for predicates in amiss]
            # Of rules that want the same but for reading requests, who reads them comes first.
            for http in (True, False):
                for rule, predicates in spoken:
                    reads = reads_all or isinstance(rule.l7, HttpRules)
                    if predicates and reads is http and not any(each and each.lacks for each in contexts_of(rule)):
                        entries.append((all_of(predicates), self._chain(Interception(*contexts_of(rule), http))))
            return descend(first_of(entries, otherwise)) if entries else otherwise

        return server_name_tree([names_of(rule) for rule in about], say)
