"""What Tansu lacks, with librdkafka's mock cluster behind the Kafka filter: transactions and groups of every library.

What is asserted here is the second matrix of docs/kafka.md, which is written from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lockgate.tests.e2e.kafka_pods import LIBRARIES, start_mock, use_at
from lockgate.tests.e2e.live_node import LiveNode, live_node

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: kafka}
spec:
  endpointSelector: {matchLabels: {app: broker}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "1024", endPort: 65535, protocol: TCP}]
      rules:
        kafka:
        - {role: produce, topic: orders}
        - {role: consume, topic: orders}
        - {apiKey: addpartitionstotxn, topic: orders, clientID: payments}
        - {apiKey: endtxn, clientID: payments}
        - {apiKey: findcoordinator, clientID: payments}
  - fromEndpoints: [{matchLabels: {app: intruder}}]
    toPorts:
    - ports: [{port: "1024", endPort: 65535, protocol: TCP}]
      rules:
        kafka:
        - {role: produce, topic: orders}
        - {apiKey: fetch, topic: orders}
        - {apiKey: offsets, topic: orders}
        - {apiKey: findcoordinator, clientID: finds}
  - fromEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "1024", endPort: 65535, protocol: TCP}]}]
"""
DENIED = "topicauthorizationfailed"
GROUP = "groupauthorizationfailed"
PURGED = "purgequeue"  # the transaction has failed, and its messages with it
NOTHING = "timeout"  # the library goes on trying, and tells nobody
UNSURE = "-"  # the library does not do it, or not with this broker, without a policy either


@dataclass(frozen=True, slots=True)
class Cluster:
    """The node, and where its clients find the brokers."""

    node: LiveNode
    servers: str


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with live_node(start=False) as node:
        broker = node.ground.pod("broker", labels={"app": "broker"})
        node.list_pods()
        node.write("kafka", POLICY)
        servers = start_mock(broker, node.frontend, node.intruder, node.backend)
        node.start_agent()
        # The backend is allowed whole: it prepares what the others find.
        for topic in ("orders", "secret"):
            assert str(use_at(node.backend, servers, "confluent-kafka", "produce", topic)) == "ok"
        yield Cluster(node, servers)


# Client, operation, topic, settings, and what comes of it by library: docs/kafka.md has the same lines.
MATRIX: list[tuple[str, str, str, dict[str, Any], str, str, str]] = [
    ("frontend", "idempotent", "orders", {}, "ok", "ok", "ok"),
    ("frontend", "idempotent", "secret", {}, DENIED, DENIED, DENIED),
    ("frontend", "transaction", "orders", {"client_id": "payments"}, "ok", "ok", "ok"),
    ("frontend", "transaction", "orders", {}, DENIED, PURGED, DENIED),
    ("frontend", "group", "orders", {}, UNSURE, "ok", UNSURE),
    ("frontend", "group", "orders", {"protocol": "consumer"}, UNSURE, "ok", UNSURE),
    ("frontend", "group", "secret", {}, NOTHING, DENIED, UNSURE),
    ("intruder", "group", "orders", {}, GROUP, GROUP, GROUP),
    ("intruder", "group", "orders", {"client_id": "finds"}, GROUP, GROUP, GROUP),
    ("intruder", "group", "orders", {"client_id": "finds", "protocol": "consumer"}, UNSURE, DENIED, UNSURE),
]
CASES = [
    pytest.param(library, row[:4], row[4 + number], id="-".join([library, *row[:3], *map(str, row[3].values())]))
    for number, library in enumerate(LIBRARIES)
    for row in MATRIX
    if row[4 + number] is not UNSURE
]


def test_the_docs_have_this_matrix() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text().splitlines()
    for who, operation, topic, settings, *outcomes in MATRIX:
        words = " ".join([operation, topic, *(f"{key}={value}" for key, value in settings.items())])
        assert f"| {who} | {words} | {' | '.join(outcomes)} |" in lines


@pytest.mark.parametrize(("library", "row", "outcome"), CASES)
def test_matrix(cluster: Cluster, library: str, row: tuple[str, str, str, dict[str, Any]], outcome: str) -> None:
    who, operation, topic, settings = row
    pod = getattr(cluster.node, who)
    # Each has a group of its own: the two protocols cannot share one.
    group = "-".join([library, who, topic, *map(str, settings.values())])
    done = use_at(pod, cluster.servers, library, operation, topic, group=group, **settings)
    assert str(done) == outcome, done
