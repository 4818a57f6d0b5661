"""A client as careful readers of the protocol make one (Envoy): all clusters and listeners, and whatever they name.

It has a queue of responses that it has not looked at and one of requests that the server has not seen, so that any
slowness and any crossing can be played. Everything that passes is judged by `Record`.
"""

from __future__ import annotations

from collections import deque
from functools import cache

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import AggregatedConfigSource, ConfigSource, DataSource, TransportSocket
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, LocalityLbEndpoints
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteConfiguration, VirtualHost
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager, Rds
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    GenericSecret,
    SdsSecretConfig,
    Secret,
    UpstreamTlsContext,
)
from envoy_data_plane.google.protobuf import Any
from lockgate.xds.serve.delta import DeltaStream
from lockgate.xds.serve.discovery import DeltaRequest, DeltaResponse, WholeRequest, WholeResponse
from lockgate.xds.serve.node_memory import NodeMemory
from lockgate.xds.serve.sotw import SotwStream
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET, Resource, Snapshot

BAD = "x"  # a content that the client refuses
_ADS = ConfigSource(ads=AggregatedConfigSource())
_ALL = (CLUSTER, LISTENER)
_NAMED_BY = {ENDPOINTS: (CLUSTER,), ROUTE: (LISTENER,), SECRET: (CLUSTER, LISTENER)}


def _tls(secret: str) -> CommonTlsContext:
    return CommonTlsContext(tls_certificate_sds_secret_configs=[SdsSecretConfig(name=secret, sds_config=_ADS)])


@cache
def cluster(name: str, content: str, secret: str = "") -> Resource:
    context = Any.pack(UpstreamTlsContext(common_tls_context=_tls(secret)))
    message = Cluster(
        name=name,
        alt_stat_name=content,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=_ADS),
        transport_socket=TransportSocket(name="tls", typed_config=context) if secret else None,
    )
    return Resource(CLUSTER, name, bytes(message))


@cache
def endpoints(name: str, content: str) -> Resource:
    message = ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(priority=ord(content))])
    return Resource(ENDPOINTS, name, bytes(message))


@cache
def secret(name: str, content: str) -> Resource:
    message = Secret(name=name, generic_secret=GenericSecret(secret=DataSource(inline_string=content)))
    return Resource(SECRET, name, bytes(message))


@cache
def route(name: str, content: str, clusters: tuple[str, ...]) -> Resource:
    routes = [Route(route=RouteAction(cluster=each)) for each in clusters]
    message = RouteConfiguration(
        name=name,
        internal_only_headers=[content],
        virtual_hosts=[VirtualHost(name="v", domains=["*"], routes=routes)],
    )
    return Resource(ROUTE, name, bytes(message))


@cache
def listener(name: str, content: str, route_name: str, secret: str = "") -> Resource:
    manager = HttpConnectionManager(stat_prefix="h", rds=Rds(config_source=_ADS, route_config_name=route_name))
    context = Any.pack(DownstreamTlsContext(common_tls_context=_tls(secret)))
    chain = FilterChain(
        filters=[Filter(name="h", typed_config=Any.pack(manager))],
        transport_socket=TransportSocket(name="tls", typed_config=context) if secret else None,
    )
    return Resource(LISTENER, name, bytes(Listener(name=name, stat_prefix=content, filter_chains=[chain])))


def is_bad(resource: Resource) -> bool:
    body = resource.body
    if resource.type_url == ENDPOINTS:
        return body == endpoints(resource.name, BAD).body
    return any(marked in body for marked in (b"\x01" + BAD.encode(),))


class Record:
    """What the server may know of the client from its answers, and what every response must obey because of that."""

    def __init__(self) -> None:
        self.acked: dict[str, dict[str, Resource]] = {}
        self.under_way: dict[tuple[str, str], tuple[tuple[Resource, ...], tuple[str, ...]]] = {}
        self.asked: dict[str, set[str]] = {}

    def sent(self, type_url: str, nonce: str, resources: tuple[Resource, ...], removed: tuple[str, ...]) -> None:
        """A response leaves the server."""
        for resource in resources:
            for kind, name in resource.references:
                self._must_be_there(resource, kind, name)
        for name in set(removed) & set(self.acked.get(type_url, ())):  # others are only told not to exist
            for holder in self._present():
                assert (type_url, name) not in holder.references, f"{name} is taken from under {holder}"
        self.under_way[type_url, nonce] = (resources, removed)

    def answered(self, type_url: str, nonce: str, accepted: bool) -> None:
        """The server hears of it."""
        resources, removed = self.under_way.pop((type_url, nonce))
        if accepted:
            asked = self.asked.get(type_url, set())
            taken = {each.name: each for each in resources if type_url in _ALL or each.name in asked}
            self.acked.setdefault(type_url, {}).update(taken)
            for name in removed:
                self.acked.get(type_url, {}).pop(name, None)

    def wants(self, type_url: str, names: set[str]) -> None:
        """The server hears what the client wants of a type that it asks for by name."""
        self.asked[type_url] = set(names)
        held = self.acked.get(type_url, {})
        for name in set(held) - names:
            del held[name]

    def _must_be_there(self, resource: Resource, kind: str, name: str) -> None:
        if kind == CLUSTER:
            assert name in self.acked.get(CLUSTER, {}), f"{resource} names a cluster that was not ACKed: {name}"
            assert not self._is_going(CLUSTER, name), f"{resource} names a cluster that is being removed: {name}"
        elif kind != ENDPOINTS and name in self.asked.get(kind, ()):
            assert name in self.acked.get(kind, {}), f"{resource} names {kind} {name}, which was not ACKed"

    def _is_going(self, type_url: str, name: str) -> bool:
        return any(kind == type_url and name in removed for (kind, _), (_, removed) in self.under_way.items())

    def _present(self) -> list[Resource]:
        found = [each for named in self.acked.values() for each in named.values()]
        return found + [each for resources, _ in self.under_way.values() for each in resources]


class ModelClient:
    """One Envoy over several streams. `memory` is the server's."""

    def __init__(self, memory: NodeMemory, *, delta: bool) -> None:
        self.delta = delta
        self.memory = memory
        self.held: dict[str, dict[str, Resource]] = {}
        self._versions: dict[str, str] = {}  # SotW: of all that is held
        self.connect()

    def connect(self) -> None:
        """A new stream; what the client holds stays, what was under way is lost."""
        self.stream: DeltaStream | SotwStream = (DeltaStream if self.delta else SotwStream)(self.memory)
        self.record = Record()
        self.inbox: deque[tuple[DeltaResponse | WholeResponse, tuple[Resource, ...], tuple[str, ...]]] = deque()
        self.outbox: deque[tuple[DeltaRequest | WholeRequest, bool]] = deque()
        self._nonces: dict[str, str] = {}
        self._wanted: dict[str, set[str]] = {}
        self._sent_state: dict[str, dict[str, Resource]] = {}
        for type_url in _ALL:
            self._open(type_url, set())
        self._ask()
        for type_url, named in self.held.items():  # what it came back with counts as confirmed
            if self.delta or type_url in _ALL:
                self.record.acked[type_url] = dict(named)

    def restart(self) -> None:
        """A fresh process."""
        self.held, self._versions = {}, {}
        self.connect()

    # The server's side

    def hear_request(self) -> None:
        """The server takes in the oldest request."""
        request, accepted = self.outbox.popleft()
        type_url = request.type_url
        if request.nonce and (type_url, request.nonce) in self.record.under_way:
            self.record.answered(type_url, request.nonce, accepted)
        if isinstance(request, DeltaRequest):
            assert isinstance(self.stream, DeltaStream)
            self.stream.receive(request)
            if type_url not in _ALL:
                names = self.record.asked.get(type_url, set()) | set(request.subscribe)
                self.record.wants(type_url, names - set(request.unsubscribe))
        else:
            assert isinstance(self.stream, SotwStream)
            self.stream.receive(request)
            if type_url not in _ALL:
                names = set(request.names)
                if request.nonce != self._last_sent.get(type_url, ""):  # stale: it tells what was dropped, and no more
                    names &= self.record.asked.get(type_url, set())
                self.record.wants(type_url, names)

    def serve(self, snapshot: Snapshot, revision: int) -> None:
        """The server says what is due."""
        for response in self.stream.due(snapshot, revision):
            if isinstance(response, DeltaResponse):
                resources, removed = response.resources, response.removed
            else:
                self._last_sent[response.type_url] = response.nonce
                resources, removed = self._changes(response)
            acked = self.record.acked.get(response.type_url, {})
            if not self.delta and response.type_url in _ALL:
                changed = tuple(each for each in resources if acked.get(each.name) != each)
            else:
                changed = resources
            self.record.sent(response.type_url, response.nonce, changed, removed)
            self.inbox.append((response, resources, removed))

    @property
    def _last_sent(self) -> dict[str, str]:
        return self.stream._nonces if isinstance(self.stream, SotwStream) else {}

    def _changes(self, response: WholeResponse) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
        if response.type_url not in _ALL:
            return response.resources, ()
        names = {each.name for each in response.resources}
        acked = self.record.acked.get(response.type_url, {})
        return response.resources, tuple(sorted(set(acked) - names))

    # The client's side

    def look(self) -> None:
        """The client takes in the oldest response."""
        response, resources, removed = self.inbox.popleft()
        type_url = response.type_url
        self._nonces[type_url] = response.nonce
        version = response.version if isinstance(response, WholeResponse) else ""
        refused = any(is_bad(each) for each in resources)
        if not refused:
            named = self.held.setdefault(type_url, {})
            if not self.delta and type_url in _ALL:
                named.clear()
            wanted = self._wanted[type_url]  # what was not asked for is ignored
            named.update({each.name: each for each in resources if type_url in _ALL or each.name in wanted})
            for name in removed:
                named.pop(name, None)
            self._versions[type_url] = version
        self._answer(type_url, response.nonce, "refused" if refused else None)
        self._ask()
        self.check()

    def check(self) -> None:
        """Nothing that serves traffic leads into a hole."""
        clusters = self.held.get(CLUSTER, {})
        for type_url in (LISTENER, ROUTE):
            for resource in self.held.get(type_url, {}).values():
                for kind, name in resource.references:
                    assert kind != CLUSTER or name in clusters, f"{resource} leads to {name}, which is not there"

    def _answer(self, type_url: str, nonce: str, error: str | None) -> None:
        request: DeltaRequest | WholeRequest
        if self.delta:
            request = DeltaRequest(type_url, nonce=nonce, error=error)
        else:
            request = WholeRequest(type_url, names=self._names(type_url), nonce=nonce, error=error)
        self.outbox.append((request, error is None))

    def _ask(self) -> None:
        """Subscribe to whatever is named by what is held, and to nothing else."""
        for type_url, referrers in _NAMED_BY.items():
            wanted = {
                name
                for referrer in referrers
                for resource in self.held.get(referrer, {}).values()
                for kind, name in resource.references
                if kind == type_url
            }
            before = self._wanted.get(type_url)
            if before is None and wanted:
                self._open(type_url, wanted)
            elif before is not None and wanted != before:
                self._wanted[type_url] = wanted
                held = self.held.get(type_url, {})
                for name in set(held) - wanted:
                    del held[name]
                request: DeltaRequest | WholeRequest
                if self.delta:
                    more, less = tuple(sorted(wanted - before)), tuple(sorted(before - wanted))
                    request = DeltaRequest(type_url, subscribe=more, unsubscribe=less)
                else:
                    request = WholeRequest(type_url, names=self._names(type_url), nonce=self._nonces.get(type_url, ""))
                self.outbox.append((request, True))

    def _open(self, type_url: str, names: set[str]) -> None:
        self._wanted[type_url] = names
        request: DeltaRequest | WholeRequest
        if self.delta:
            versions = {name: each.version for name, each in self.held.get(type_url, {}).items()}
            request = DeltaRequest(type_url, subscribe=tuple(sorted(names)), initial_versions=versions)
        else:
            version = self._versions.get(type_url, "")
            request = WholeRequest(type_url, names=tuple(sorted(names)), version=version)
        self.outbox.append((request, True))

    def _names(self, type_url: str) -> tuple[str, ...]:
        return tuple(sorted(self._wanted.get(type_url, ())))
