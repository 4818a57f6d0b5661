"""What Envoy is told about TLS: the listener, its policies, and the certificates and clusters of what is taken up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from ...envoy.config.http_listener import ORIGINAL_DESTINATION
from ...envoy.config.identity_filter import Ipcache
from ...envoy.config.originating_cluster import Originating, originating_cluster
from ...envoy.config.tls_listener import NAME, TakenUp, TlsListener, taken_up_chain, tls_listener
from ...policies.endpoint_policy import Direction, RuleOrigin, TlsContext
from ...policies.tls_secret import TlsMaterial, TlsSecrets
from ...policies.tls_secret import TlsSide as Side
from ...xds import CLUSTER, Chain, Enforced, FragmentCache, Policed, Resource, TlsCompiler
from ...xds.compile.tls_resources import authority, certificate, listener


@dataclass(frozen=True, slots=True)
class TlsResources:
    """Everything about TLS, and the rules that Envoy cannot carry out."""

    resources: tuple[Resource, ...]
    refused: Mapping[RuleOrigin, str]


@dataclass(frozen=True, slots=True)
class _Context:
    """A TLS context as Envoy knows it: its secrets, empty where there is none. Under the same name a new certificate is
    taken up by the connections to come."""

    certificate: Resource | None = None
    authority: Resource | None = None

    @classmethod
    def of(cls, side: Side, context: TlsContext, material: TlsMaterial) -> _Context:
        own = authorities = None
        if material.certificate:
            own = certificate(f"{side}:certificate:{context}", material.certificate, material.private_key)
        if material.trusted_ca:
            # By what is in it: another one is another cluster, which shares no connections with servers that the former
            # one trusted.
            digest = sha256(material.trusted_ca).hexdigest()[:8]
            authorities = authority(f"{side}:authority:{context}:{digest}", material.trusted_ca)
        return cls(own, authorities)

    @property
    def names(self) -> tuple[str, str]:
        """Of the certificate and of the authority."""
        return (
            self.certificate.name if self.certificate is not None else "",
            self.authority.name if self.authority is not None else "",
        )


_Contexts: TypeAlias = Mapping[tuple[Side, TlsContext], _Context]


class TlsSide:
    """`resources` is a pure function of its arguments; the object only remembers what is costly to make again.

    The listener is there also while no rule is about TLS: the connections of a listener that goes away end with it.
    """

    def __init__(self, settings: TlsListener, access_log: Path, ipcache: Ipcache) -> None:
        self.port = settings.port
        self._settings = settings
        self._access_log = access_log
        self._compiler = TlsCompiler()
        self._listener = tls_listener(settings, access_log, ipcache)
        self._chains = FragmentCache[TakenUp, bytes]()
        self._clusters = FragmentCache[Originating, bytes]()
        self._last: _Contexts = {}

    def resources(self, enforced: Enforced, policed: Policed, secrets: TlsSecrets) -> TlsResources:
        """`policed` as for NodeCompiler.compile, of `tls_policed_by`; `secrets` those that the policies name."""
        policy = self._compiler.compile(enforced, policed)
        used = sorted(policy.chains, key=lambda chain: chain.name)
        contexts = self._contexts(used, secrets)
        chains = [_taken_up(chain, contexts) for chain in used]
        clusters = sorted(_clusters(contexts), key=lambda cluster: cluster.name)
        self._chains.keep(set(chains).__contains__)
        self._clusters.keep(set(clusters).__contains__)
        parts = [
            self._chains.get(chain, chain, partial(taken_up_chain, self._settings, self._access_log, chain))
            for chain in chains
        ]
        resources = [
            *(each for known in contexts.values() for each in (known.certificate, known.authority) if each is not None),
            *(
                Resource(
                    CLUSTER,
                    each.name,
                    self._clusters.get(each, each, partial(originating_cluster, self._settings.http, each)),
                )
                for each in clusters
            ),
            listener(NAME, self._listener, parts, policy.matcher),
            *policy.filters,
        ]
        return TlsResources(tuple(resources), policy.refused)

    def _contexts(self, chains: Iterable[Chain], secrets: TlsSecrets) -> _Contexts:
        used = {
            (side, context)
            for chain in chains
            for side, context in (
                (Side.TERMINATING, chain.does.terminating),
                (Side.ORIGINATING, chain.does.originating),
            )
            if context is not None
        }
        found: dict[tuple[Side, TlsContext], _Context] = {}
        for side, context in used:
            try:
                found[side, context] = _Context.of(side, context, secrets.material(side, context))
            except LookupError:  # of an endpoint that leaves, whose policy is still that of the world before
                found[side, context] = self._last[side, context]
        self._last = found
        return found


def _taken_up(chain: Chain, contexts: _Contexts) -> TakenUp:
    terminating, originating = chain.does.terminating, chain.does.originating
    shown, asked = contexts[Side.TERMINATING, terminating].names if terminating is not None else ("", "")
    return TakenUp(
        chain.name,
        chain.direction is Direction.EGRESS,
        chain.does.http,
        shown,
        asked,
        _cluster_name(originating),
        originating is not None,
    )


def _clusters(contexts: _Contexts) -> Iterator[Originating]:
    for (side, context), known in contexts.items():
        if side is Side.ORIGINATING:
            own, trusted = known.names
            yield Originating(_cluster_name(context), trusted, own)


def _cluster_name(context: TlsContext | None) -> str:
    return f"lockgate.originating:{context}" if context is not None else ORIGINAL_DESTINATION
