"""Envoy's API messages, by package: `core.Address` is envoy.config.core.v3.Address.

Imported here and nowhere else: as plain dataclasses, and without the warnings of pydantic 2.12, which calls the form of
the generated validators deprecated.
"""

from __future__ import annotations

import warnings

from .plain_dataclasses import plain_dataclasses

with warnings.catch_warnings(), plain_dataclasses():
    warnings.simplefilter("ignore", DeprecationWarning)
    from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
    from envoy_data_plane.envoy.config.bootstrap import v3 as boot
    from envoy_data_plane.envoy.config.cluster import v3 as cluster
    from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
    from envoy_data_plane.envoy.config.listener import v3 as listener
    from envoy_data_plane.envoy.config.overload import v3 as overload
    from envoy_data_plane.envoy.config.rbac import v3 as rbac
    from envoy_data_plane.envoy.config.route import v3 as route
    from envoy_data_plane.envoy.data.accesslog import v3 as stream_log
    from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_access_log
    from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel_filter
    from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc_access_log
    from envoy_data_plane.envoy.extensions.dynamic_modules import v3 as dynamic_modules
    from envoy_data_plane.envoy.extensions.filters.common.set_filter_state import v3 as filter_state
    from envoy_data_plane.envoy.extensions.filters.http.composite import v3 as composite
    from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
    from envoy_data_plane.envoy.extensions.filters.http.router import v3 as http_router
    from envoy_data_plane.envoy.extensions.filters.listener.dynamic_modules import v3 as module_listener_filter
    from envoy_data_plane.envoy.extensions.filters.listener.original_dst import v3 as original_dst
    from envoy_data_plane.envoy.extensions.filters.listener.original_src import v3 as original_src
    from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector
    from envoy_data_plane.envoy.extensions.filters.network.connection_limit import v3 as connection_limit
    from envoy_data_plane.envoy.extensions.filters.network.direct_response import v3 as direct_response
    from envoy_data_plane.envoy.extensions.filters.network.dynamic_modules import v3 as dynamic_filter
    from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
    from envoy_data_plane.envoy.extensions.filters.network.rbac import v3 as network_rbac
    from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state
    from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy import v3 as tcp_proxy
    from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early_mutation
    from envoy_data_plane.envoy.extensions.http.header_formatters.preserve_case import v3 as preserve_case
    from envoy_data_plane.envoy.extensions.matching.common_inputs.network import v3 as network_input
    from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import v3 as connection_monitor
    from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap import v3 as heap_monitor
    from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
    from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream_http
    from envoy_data_plane.envoy.service.accesslog import v3 as access_log_service
    from envoy_data_plane.envoy.type import v3 as envoy_type
    from envoy_data_plane.envoy.type.matcher import v3 as matcher
    from envoy_data_plane.google import protobuf
    from envoy_data_plane.xds.core import v3 as xds_core
    from envoy_data_plane.xds.type.matcher import v3 as xds_matcher

__all__ = [
    "access_log_service",
    "accesslog",
    "boot",
    "cel_filter",
    "cluster",
    "composite",
    "connection_limit",
    "connection_monitor",
    "core",
    "direct_response",
    "dynamic_filter",
    "dynamic_modules",
    "early_mutation",
    "endpoint",
    "envoy_type",
    "file_access_log",
    "filter_state",
    "grpc_access_log",
    "hcm",
    "heap_monitor",
    "http_rbac",
    "http_router",
    "listener",
    "matcher",
    "module_listener_filter",
    "mutation_rules",
    "network_input",
    "network_rbac",
    "original_dst",
    "original_src",
    "overload",
    "preserve_case",
    "protobuf",
    "rbac",
    "route",
    "set_filter_state",
    "stream_log",
    "tcp_proxy",
    "tls",
    "tls_inspector",
    "upstream_http",
    "xds_core",
    "xds_matcher",
]
