"""The transparent Kafka listener of the node: what every connection passes whose requests a Kafka rule judges.

One listener on loopback for both address families, with one policy slot: the filter of Lockgate's dynamic module, which
judges both directions (see envoy/module/kafka). It comes by LDS, so that a node without the agent's word has none, and
the kernel then drops what it would send there.
https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/dynamic_modules_filter
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from .connection_limit import connection_limit
from .http_listener import ORIGINAL_DESTINATION
from .identity_filter import Ipcache
from .messages import dynamic_filter, listener, protobuf, tcp_proxy
from .module_filter import module_filter
from .own_address import refuse_own_address
from .policy_slot import policy_source
from .transparent_listener import transparent_listener

NAME = "lockgate.kafka"
FILTER_TYPE_URL = "type.googleapis.com/envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"
MODULE = "lockgate"  # liblockgate.so
_NO_TIMEOUT = timedelta(0)
_MOST_EARLY_DATA = 1 << 20  # bytes of the client's that wait for the server


@dataclass(frozen=True, slots=True)
class KafkaListener:
    """The Kafka listener's settings. The slot is the ECDS resource name of the module's filter."""

    port: int = 15003
    slot: str = "lockgate.kafka"
    first_policy_timeout: float = 15.0  # seconds; the listener stays closed so long, then opens and denies
    mark: int = 0xA00  # SO_MARK of upstream sockets
    backlog: int = 4096
    connections_per_client: int = 0  # as of HttpListener
    heap: int = 0  # likewise


def kafka_listener(settings: KafkaListener, ipcache: Ipcache) -> bytes:
    """The serialised Listener called NAME."""
    chains = [_judged(settings), refuse_own_address(settings.port)]
    return bytes(transparent_listener(NAME, settings, ipcache, chains))


def _judged(settings: KafkaListener) -> listener.FilterChain:
    proxy = tcp_proxy.TcpProxy(
        stat_prefix="lockgate_kafka",
        cluster=ORIGINAL_DESTINATION,
        idle_timeout=_NO_TIMEOUT,
        # The first request is judged before any server notices the connection.
        upstream_connect_mode=tcp_proxy.UpstreamConnectMode.ON_DOWNSTREAM_DATA,
        max_early_data_bytes=_MOST_EARLY_DATA,
    )
    return listener.FilterChain(
        name="kafka",
        filters=[
            *connection_limit(settings.connections_per_client, settings.heap),
            _policy_slot(settings.slot, settings.first_policy_timeout),
            listener.Filter(name="envoy.filters.network.tcp_proxy", typed_config=protobuf.Any.pack(proxy)),
        ],
    )


def _policy_slot(name: str, first_policy_timeout: float) -> listener.Filter:
    return listener.Filter(
        name=name,
        config_discovery=policy_source(without_policy(name), first_policy_timeout, FILTER_TYPE_URL),
    )


def without_policy(name: str) -> dynamic_filter.DynamicModuleNetworkFilter:
    """The filter with no policy of its own: it judges by what the module was given last, and until then denies."""
    return module_filter(name)
