"""Every listener of connections that pods make refuses a client that has too many, before anything else is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.envoy.config.http_listener import HttpListener, http_listener
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.kafka_listener import KafkaListener, kafka_listener
from lockgate.envoy.config.messages import dynamic_filter, listener, protobuf
from lockgate.envoy.config.tls_listener import TlsListener, tls_listener

LOG = Path("/run/lockgate/requests.jsonl")
IPCACHE = Ipcache(Path("/sys/fs/bpf/lockgate/maps/ipcache"), 7, 8)


def listeners(limit: int, heap: int = 0) -> list[listener.Listener]:
    http = http_listener(HttpListener(connections_per_client=limit, heap=heap), LOG, IPCACHE)
    tls = tls_listener(TlsListener(connections_per_client=limit, heap=heap), LOG, IPCACHE)
    kafka = kafka_listener(KafkaListener(connections_per_client=limit, heap=heap), IPCACHE)
    return [http, listener.Listener.parse(tls), listener.Listener.parse(kafka)]


@pytest.mark.parametrize(
    ("limit", "heap", "told"),
    [
        (1, 0, "1"),
        (10_000, 0, "10000"),
        (10_000, 2_000_000_000, "10000 1300000000 300000000 1200000 30000000"),
    ],
)
def test_the_limit_comes_first(limit: int, heap: int, told: str) -> None:
    found = listeners(limit, heap)
    assert len(found) == 3
    for each in found:
        first = each.filter_chains[0].filters[0].typed_config
        assert first is not None
        limited = first.unpack()
        assert isinstance(limited, dynamic_filter.DynamicModuleNetworkFilter)
        assert limited.filter_name == "lockgate.connection_limit"
        assert limited.filter_config is not None
        assert limited.filter_config.unpack() == protobuf.StringValue(value=told)


def test_without_a_limit_there_is_no_filter() -> None:
    for each in listeners(0):
        assert all(item.name != "lockgate.connection_limit" for item in each.filter_chains[0].filters)
