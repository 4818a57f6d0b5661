"""A listener through which a remote Envoy's configuration can be asked for, by who holds the agent's certificate.

Envoy's admin interface knows no clients and no rights, so nothing but its Unix socket ever has it. This listener leads
there for one kind of request, GET /config_dump (in which Envoy strikes out keys and secrets); others get 404.
https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from .messages import (
    cluster,
    connection_limit,
    core,
    endpoint,
    hcm,
    http_router,
    listener,
    matcher,
    protobuf,
    route,
    tls,
)

LISTENER = CLUSTER = "lockgate.admin"
ASKED = "/config_dump"
_CONNECTIONS = 32  # the agent needs one; whoever else comes ends within _PATIENCE
_PATIENCE = timedelta(seconds=10)


def admin_listener(port: int, certificate: tls.SdsSecretConfig, agent: tls.SdsSecretConfig) -> listener.Listener:
    """On all addresses. `certificate` is what it shows, `agent` says whose certificate a client must have."""
    context = tls.DownstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=["http/1.1"],
            tls_certificate_sds_secret_configs=[certificate],
            validation_context_sds_secret_config=agent,
        ),
        require_client_certificate=True,
    )
    address, other = (
        core.Address(socket_address=core.SocketAddress(address=each, port_value=port)) for each in ("0.0.0.0", "::")
    )
    return listener.Listener(
        name=LISTENER,
        stat_prefix="lockgate_admin",
        address=address,
        additional_addresses=[listener.AdditionalAddress(address=other)],
        filter_chains=[
            listener.FilterChain(
                filters=[
                    listener.Filter(
                        name="envoy.filters.network.connection_limit",
                        typed_config=protobuf.Any.pack(
                            connection_limit.ConnectionLimit(stat_prefix="lockgate_admin", max_connections=_CONNECTIONS)
                        ),
                    ),
                    listener.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=protobuf.Any.pack(_manager()),
                    ),
                ],
                transport_socket=core.TransportSocket(
                    name="envoy.transport_sockets.tls", typed_config=protobuf.Any.pack(context)
                ),
                transport_socket_connect_timeout=_PATIENCE,
            )
        ],
    )


def _manager() -> hcm.HttpConnectionManager:
    asked = route.RouteMatch(
        path=ASKED,
        headers=[route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))],
    )
    onwards = route.RouteAction(cluster=CLUSTER, timeout=_PATIENCE)
    return hcm.HttpConnectionManager(
        stat_prefix="lockgate_admin",
        codec_type=hcm.HttpConnectionManagerCodecType.HTTP1,
        route_config=route.RouteConfiguration(
            name=LISTENER,
            virtual_hosts=[
                route.VirtualHost(name="any", domains=["*"], routes=[route.Route(match=asked, route=onwards)])
            ],
        ),
        http_filters=[
            hcm.HttpFilter(
                name="envoy.filters.http.router",
                typed_config=protobuf.Any.pack(http_router.Router(suppress_envoy_headers=True)),
            )
        ],
        request_headers_timeout=_PATIENCE,
        request_timeout=_PATIENCE,
        stream_idle_timeout=_PATIENCE,
        generate_request_id=False,
        normalize_path=False,
    )


def admin_cluster(socket: Path) -> cluster.Cluster:
    """The admin interface itself."""
    address = core.Address(pipe=core.Pipe(path=str(socket)))
    return cluster.Cluster(
        name=CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=CLUSTER,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))]
                )
            ],
        ),
    )
