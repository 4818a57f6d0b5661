"""The discovery services: the aggregated one, and one for each type, each in both variants of the protocol.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#variants-of-the-xds-transport-protocol
"""

from __future__ import annotations

from dataclasses import dataclass

from ..snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service and its methods. `type_url` is empty for the aggregated one, whose requests say their type."""

    name: str
    stream: str
    delta: str
    type_url: str = ""


AGGREGATED = Service(
    "envoy.service.discovery.v3.AggregatedDiscoveryService", "StreamAggregatedResources", "DeltaAggregatedResources"
)


def _of_type(package: str, service: str, resources: str, type_url: str) -> Service:
    name = f"envoy.service.{package}.v3.{service}DiscoveryService"
    return Service(name, f"Stream{resources}", f"Delta{resources}", type_url)


SERVICES = (
    AGGREGATED,
    _of_type("cluster", "Cluster", "Clusters", CLUSTER),
    _of_type("endpoint", "Endpoint", "Endpoints", ENDPOINTS),
    _of_type("listener", "Listener", "Listeners", LISTENER),
    _of_type("route", "Route", "Routes", ROUTE),
    _of_type("secret", "Secret", "Secrets", SECRET),
    _of_type("extension", "ExtensionConfig", "ExtensionConfigs", FILTER_CONFIG),
)
