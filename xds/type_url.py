"""The resource types that are served. https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-types"""

from __future__ import annotations

TYPES = "type.googleapis.com/"
CLUSTER = TYPES + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPES + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPES + "envoy.config.listener.v3.Listener"
ROUTE = TYPES + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPES + "envoy.extensions.transport_sockets.tls.v3.Secret"
FILTER_CONFIG = TYPES + "envoy.config.core.v3.TypedExtensionConfig"  # ECDS
