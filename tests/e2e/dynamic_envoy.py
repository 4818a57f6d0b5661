"""A real Envoy on loopback that has everything by xDS: listeners, routes, clusters and endpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    Locality,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.config.listener.v3 import ApiListener, Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.echo.v3 import Echo
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
)
from envoy_data_plane.google.protobuf import Any
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy, ads_config, free_ports, started, xds_cluster
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, Resource

_ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def http_listener(name: str, route: str, port: int | None) -> Resource:
    """Routes by RDS; on 127.0.0.1:`port`, or for a client that is its own proxy (gRPC) without a port."""
    manager = HttpConnectionManager(
        stat_prefix=name,
        rds=Rds(config_source=_ADS, route_config_name=route),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router()))],
    )
    if port is None:
        listener = Listener(name=name, api_listener=ApiListener(api_listener=Any.pack(manager)))
    else:
        chain = FilterChain(
            filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))]
        )
        address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=port))
        listener = Listener(name=name, address=address, filter_chains=[chain])
    return Resource(LISTENER, name, bytes(listener))


def tls_listener(name: str, secret: str, port: int) -> Resource:
    """Echoes, and shows the certificate `secret`, by SDS; on 127.0.0.1:`port`."""
    shown = SdsSecretConfig(name=secret, sds_config=_ADS)
    context = DownstreamTlsContext(common_tls_context=CommonTlsContext(tls_certificate_sds_secret_configs=[shown]))
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.echo", typed_config=Any.pack(Echo()))],
        transport_socket=TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context)),
    )
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=port))
    return Resource(LISTENER, name, bytes(Listener(name=name, address=address, filter_chains=[chain])))


def routes(name: str, clusters: dict[str, str]) -> Resource:
    """Clusters by path prefix; the first that fits."""
    found = [
        Route(match=RouteMatch(prefix=prefix), route=RouteAction(cluster=cluster))
        for prefix, cluster in clusters.items()
    ]
    host = VirtualHost(name="all", domains=["*"], routes=found)
    return Resource(ROUTE, name, bytes(RouteConfiguration(name=name, virtual_hosts=[host])))


def eds_cluster(name: str, *, buffer: int = 0) -> Resource:
    """Endpoints by EDS under the cluster's own name; `buffer` (bytes) only makes another version of it."""
    message = Cluster(
        name=name,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=_ADS),
        per_connection_buffer_limit_bytes=buffer or None,
    )
    return Resource(CLUSTER, name, bytes(message))


def endpoints(name: str, *ports: int) -> Resource:
    """On 127.0.0.1."""
    found = [
        LbEndpoint(
            endpoint=Endpoint(
                address=Address(socket_address=SocketAddress(address="127.0.0.1", port_value=port)),
            ),
        )
        for port in ports
    ]
    locality = LocalityLbEndpoints(locality=Locality(region="here"), lb_endpoints=found, load_balancing_weight=1)
    return Resource(ENDPOINTS, name, bytes(ClusterLoadAssignment(cluster_name=name, endpoints=[locality])))


def dynamic_bootstrap(
    folder: Path, xds: dict[str, object], api_type: str, node: str = "dynamic", **cluster: object
) -> dict[str, object]:
    """`xds` is the server's address, `cluster` more of the cluster that leads there."""
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node, "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock"), "mode": 0o600}}},
        "dynamic_resources": {"ads_config": ads_config(api_type), "lds_config": source, "cds_config": source},
        "static_resources": {"clusters": [xds_cluster(xds, **cluster)]},
    }


@contextmanager
def dynamic_envoy(
    xds: dict[str, object], api_type: str, node: str = "dynamic", **more: object
) -> Iterator[LoopbackEnvoy]:
    """A running Envoy whose `listen` has one free port for a listener to come."""
    with tempfile.TemporaryDirectory(prefix="lockgate-xds-") as name:
        folder = Path(name)
        listen = [("127.0.0.1", port) for port in free_ports(("127.0.0.1",), 1)]
        bootstrap = dynamic_bootstrap(folder, xds, api_type, node, **more)
        with started(folder, bootstrap, listen, "--drain-time-s", "1") as running:
            yield running
