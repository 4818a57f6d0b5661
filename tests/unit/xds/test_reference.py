"""What resources name, read from messages that envoy-data-plane made."""

from __future__ import annotations

import pytest
from betterproto2 import Message
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ConfigSource,
    ExtensionConfigSource,
    PathConfigSource,
    TransportSocket,
)
from envoy_data_plane.envoy.config.listener.v3 import ApiListener, Filter, FilterChain, Listener, ListenerFilter
from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteActionRequestMirrorPolicy,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
    WeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import (
    TcpProxy,
    TcpProxyWeightedCluster,
    TcpProxyWeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    UpstreamTlsContext,
)
from envoy_data_plane.google.protobuf import Any
from lockgate.xds.serve.reference import Reference
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET, Resource

ADS = ConfigSource(ads=AggregatedConfigSource())
FILE = ConfigSource(path_config_source=PathConfigSource(path="/f"))


def socket(context: Message) -> TransportSocket:
    return TransportSocket(name="tls", typed_config=Any.pack(context))


def eds(config: ConfigSource, service_name: str = "") -> Cluster:
    return Cluster(
        name="c",
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=config, service_name=service_name),
    )


def listener(*network_filters: Filter, context: Message | None = None) -> Listener:
    chain = FilterChain(filters=[*network_filters], transport_socket=socket(context) if context is not None else None)
    return Listener(name="l", filter_chains=[chain])


def typed(message: Message) -> Filter:
    return Filter(name="f", typed_config=Any.pack(message))


def routed(action: RouteAction) -> RouteConfiguration:
    return RouteConfiguration(
        name="r", virtual_hosts=[VirtualHost(name="v", domains=["*"], routes=[Route(route=action)])]
    )


CERTIFICATE = CommonTlsContext(tls_certificate_sds_secret_configs=[SdsSecretConfig(name="own", sds_config=ADS)])
COMBINED = CommonTlsContextCombinedCertificateValidationContext(
    default_validation_context=CertificateValidationContext(),
    validation_context_sds_secret_config=SdsSecretConfig(name="roots", sds_config=ADS),
)
SLOT = ExtensionConfigSource(config_source=ADS, type_urls=["t"])
DEFAULTED = ExtensionConfigSource(config_source=ADS, type_urls=["t"], default_config=Any.pack(Router()))


@pytest.mark.parametrize(
    ("type_url", "message", "named"),
    [
        (CLUSTER, Cluster(name="c", type=ClusterDiscoveryType.STATIC), set()),
        (CLUSTER, eds(ADS), {(ENDPOINTS, "c")}),
        (CLUSTER, eds(ADS, "service"), {(ENDPOINTS, "service")}),
        (CLUSTER, eds(FILE), set()),
        (
            CLUSTER,
            Cluster(name="c", transport_socket=socket(UpstreamTlsContext(common_tls_context=CERTIFICATE))),
            {(SECRET, "own")},
        ),
        (
            LISTENER,
            listener(
                typed(
                    HttpConnectionManager(
                        rds=Rds(config_source=ADS, route_config_name="r"),
                        http_filters=[
                            HttpFilter(name="needed", config_discovery=SLOT),
                            HttpFilter(name="defaulted", config_discovery=DEFAULTED),
                        ],
                    )
                ),
                context=DownstreamTlsContext(
                    common_tls_context=CommonTlsContext(combined_validation_context=COMBINED),
                    session_ticket_keys_sds_secret_config=SdsSecretConfig(name="tickets", sds_config=ADS),
                ),
            ),
            {(ROUTE, "r"), (FILTER_CONFIG, "needed"), (SECRET, "roots"), (SECRET, "tickets")},
        ),
        (
            LISTENER,
            listener(
                typed(HttpConnectionManager(route_config=routed(RouteAction(cluster="inline")))),
                typed(TcpProxy(cluster="plain")),
                Filter(name="network", config_discovery=SLOT),
            ),
            {(CLUSTER, "inline"), (CLUSTER, "plain"), (FILTER_CONFIG, "network")},
        ),
        (
            LISTENER,
            Listener(
                name="l",
                default_filter_chain=FilterChain(
                    filters=[
                        typed(
                            TcpProxy(
                                weighted_clusters=TcpProxyWeightedCluster(
                                    clusters=[TcpProxyWeightedClusterClusterWeight(name="w", weight=1)]
                                )
                            )
                        )
                    ]
                ),
                listener_filters=[ListenerFilter(name="early", config_discovery=SLOT)],
            ),
            {(CLUSTER, "w"), (FILTER_CONFIG, "early")},
        ),
        (
            LISTENER,
            Listener(
                name="l",
                api_listener=ApiListener(
                    api_listener=Any.pack(HttpConnectionManager(rds=Rds(config_source=ADS, route_config_name="r")))
                ),
            ),
            {(ROUTE, "r")},
        ),
        (
            ROUTE,
            routed(
                RouteAction(
                    weighted_clusters=WeightedCluster(
                        clusters=[WeightedClusterClusterWeight(name=name) for name in ("a", "b")]
                    ),
                    request_mirror_policies=[RouteActionRequestMirrorPolicy(cluster="mirror")],
                )
            ),
            {(CLUSTER, "a"), (CLUSTER, "b"), (CLUSTER, "mirror")},
        ),
    ],
    ids=lambda value: None,
)
def test_what_a_resource_names(type_url: str, message: Message, named: set[Reference]) -> None:
    assert Resource(type_url, "x", bytes(message)).references == named


def test_what_is_no_message_names_nothing() -> None:
    assert Resource(LISTENER, "x", b"\xff\xff").references == frozenset()
