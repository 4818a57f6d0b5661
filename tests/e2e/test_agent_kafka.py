"""Kafka rules on a live node: real clients of three libraries, a real broker, and every operation allowed and denied.

What is asserted here is the matrix of docs/kafka.md, which is written from it.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Pod
from lockgate.envoy.config.access_log import LoggedRequest, parse
from lockgate.policies import KafkaRequest
from lockgate.tests.e2e import kafka_frames
from lockgate.tests.e2e.kafka_pods import LIBRARIES, dial, start_broker, use
from lockgate.tests.e2e.live_node import GLANCE, LiveNode, live_node

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: kafka}
spec:
  endpointSelector: {matchLabels: {app: broker}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules:
        kafka:
        - {role: produce, topic: orders}
        - {role: consume, topic: orders}
        - {apiKey: createtopics, topic: made}
        - {apiKey: deletetopics, topic: made}
        - {apiKey: addpartitionstotxn, topic: orders, clientID: payments}
        - {apiKey: endtxn, clientID: payments}
        - {apiKey: findcoordinator, clientID: payments}
  - fromEndpoints: [{matchLabels: {app: intruder}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules:
        kafka:
        - {role: produce, topic: orders, clientID: only-this}
  - fromEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "9092", protocol: TCP}]}]
"""
DENIED = "topicauthorizationfailed"
TANSU = "unknown"  # aiokafka does not understand this broker's answer; it is so without a policy
PURGED = "purgequeue"  # the transaction has failed, and its messages with it
NOTHING = "timeout"  # the library goes on trying, and tells nobody


@dataclass(frozen=True, slots=True)
class Cluster:
    """The node, and the pod of the broker."""

    node: LiveNode
    broker: Pod


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with live_node(start=False) as node:
        broker = node.ground.pod("broker", labels={"app": "broker"})
        node.ground.outside()
        node.list_pods()
        node.write("kafka", POLICY)
        with (node.folder / "broker.log").open("wb") as log:
            start_broker(broker, log)
        node.start_agent()
        # The backend is allowed whole, by a rule without requests: it prepares what the others find.
        assert str(use(node.backend, broker, "confluent-kafka", "create", "orders,secret")) == "ok"
        for topic in ("orders", "secret"):
            assert str(use(node.backend, broker, "confluent-kafka", "produce", topic)) == "ok"
        yield Cluster(node, broker)


# Operation, topic, settings of the client, and what comes of it by library: docs/kafka.md has the same lines.
MATRIX: list[tuple[str, str, dict[str, Any], str, str, str]] = [
    ("produce", "orders", {}, "ok", "ok", "ok"),
    ("produce", "secret", {}, DENIED, DENIED, DENIED),
    ("produce", "orders", {"compression": "gzip"}, "ok", "ok", "ok"),
    ("produce", "orders", {"size": 10 << 20}, "ok", "ok", "ok"),
    ("produce", "orders", {"count": 200}, "ok", "ok", "ok"),
    ("acks0", "orders", {}, "ok", "ok", "ok"),
    ("idempotent", "orders", {}, TANSU, "ok", "ok"),
    ("transaction", "orders", {}, TANSU, PURGED, DENIED),
    ("transaction", "orders", {"client_id": "payments"}, TANSU, "ok", "ok"),
    ("fetch", "orders", {}, "ok", "ok", "ok"),
    ("fetch", "secret", {}, NOTHING, DENIED, DENIED),
    ("group", "orders", {}, "ok", NOTHING, NOTHING),
    ("create", "made", {}, "ok", "ok", "ok"),
    ("delete", "made", {}, "ok", "ok", "ok"),
    ("create", "other", {}, DENIED, DENIED, DENIED),
    ("delete", "secret", {}, DENIED, DENIED, DENIED),
]
# What a group of these two clients comes to with this broker is the same without a policy.
CASES = [
    pytest.param(library, row[:3], row[3 + number], id="-".join([library, *row[:2], *map(str, row[2])]))
    for number, library in enumerate(LIBRARIES)
    for row in MATRIX
    if not (row[0] == "group" and row[3 + number] is NOTHING)
]


def test_the_docs_have_this_matrix() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text().splitlines()
    for operation, topic, settings, *outcomes in MATRIX:
        words = " ".join([operation, topic, *(f"{key}={value}" for key, value in settings.items())])
        assert f"| {words} | {' | '.join(outcomes)} |" in lines


@pytest.mark.parametrize(("library", "row", "outcome"), CASES)
def test_matrix(cluster: Cluster, library: str, row: tuple[str, str, dict[str, Any]], outcome: str) -> None:
    operation, topic, settings = row
    done = use(cluster.node.frontend, cluster.broker, library, operation, topic, **settings)
    assert str(done) == outcome, done
    if operation == "fetch" and outcome == "ok":
        assert done.values == ("value",)


def test_a_client_of_another_name_is_refused_everything(cluster: Cluster) -> None:
    named = use(cluster.node.intruder, cluster.broker, "aiokafka", "produce", "orders", client_id="only-this")
    assert str(named) == "ok"
    # Not even the first question of a client, so it finds no broker to speak to.
    other = use(cluster.node.intruder, cluster.broker, "aiokafka", "produce", "orders", client_id="another")
    assert str(other) == "kafkaconnection"


def test_what_is_refused_is_logged_with_what_it_was(cluster: Cluster) -> None:
    use(cluster.node.frontend, cluster.broker, "kafka-python", "create", "forbidden", client_id="tell-me")
    node = cluster.node

    def told() -> LoggedRequest | None:
        lines = map(parse, (node.run_dir / "requests.jsonl").read_text().splitlines())
        return next((each for each in lines if each.kafka is not None and each.kafka.client_id == "tell-me"), None)

    logged = node.until("the refusal is in the log", told)
    assert logged is not None and logged.kafka is not None
    assert (logged.kafka.api, logged.kafka.topics, logged.code) == ("CreateTopics", ("forbidden",), 29)
    assert logged.rule == "no-rule-matched:default/kafka:spec.ingress[0].toPorts[0]"
    assert (logged.source.ip, logged.destination.ip) == (node.frontend.ipv4, cluster.broker.ipv4)
    identities = {each["endpoint"]: each["identity"] for each in ask(node.run_dir, "/v1/endpoints")}
    assert logged.source_identity == identities["default/frontend"]


def ask_raw(line: socket.socket, asked: KafkaRequest, correlation: int = 7, **more: Any) -> bytes:
    """One request on an open connection; the response without its length."""
    line.sendall(kafka_frames.request(asked, correlation, **more))
    return receive(line)


def receive(line: socket.socket) -> bytes:
    """The next response; empty when the connection has ended."""
    with line.makefile("rb", buffering=0) as stream:
        head = stream.read(4)
        wanted = int.from_bytes(head or b"")
        payload = b""
        while len(payload) < wanted and (more := stream.read(wanted - len(payload))):
            payload += more
        return payload


def error_of_produce(payload: bytes) -> int:
    """Of the first partition in a Produce response of version 2."""
    name = struct.unpack_from(">h", payload, 8)[0]
    return int(struct.unpack_from(">h", payload, 10 + name + 4 + 4)[0])


def produce(topic: str) -> KafkaRequest:
    return KafkaRequest(kafka_frames.PRODUCE, topics=frozenset({topic}), client_id="raw")


def test_a_change_of_policy_reaches_an_open_connection(cluster: Cluster) -> None:
    node, broker = cluster.node, cluster.broker
    with dial(node.frontend, broker) as line:
        assert error_of_produce(ask_raw(line, produce("changing"))) == 29
        node.write(
            "kafka", POLICY.replace("topic: made}", "topic: made}\n        - {role: produce, topic: changing}", 1)
        )
        try:
            node.until(
                "the open connection obeys the new rule",
                lambda: error_of_produce(ask_raw(line, produce("changing"))) != 29,
            )
        finally:
            node.write("kafka", POLICY)
        node.until("and the old one again", lambda: error_of_produce(ask_raw(line, produce("changing"))) == 29)


OUTSIDE = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: outside}
spec:
  endpointSelector: {matchLabels: {app: broker}}
  ingress:
"""
FROM = '  - %s\n    toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{role: produce, topic: %s}]}}]\n'


def test_a_client_of_which_another_prefix_speaks_does_not_go_on_as_who_it_was(cluster: Cluster) -> None:
    """The filter has been told once who it is; the rules about that one are not about it any more."""
    node, broker, outside = cluster.node, cluster.broker, cluster.node.ground.outside()

    def may_produce(topic: str) -> bool | None:
        """What a new connection is told; None when there is none to speak on."""
        try:
            with dial(outside, broker, GLANCE) as line:
                return error_of_produce(ask_raw(line, produce(topic))) != 29
        except (OSError, struct.error):  # the connection ends with the change that it is made at
            return None

    path = node.write("outside", OUTSIDE + FROM % ("fromCIDR: [192.0.2.0/24]", "orders"))
    node.until("the outside may produce", lambda: may_produce("orders"))
    with dial(outside, broker) as line, dial(node.frontend, broker) as other:
        assert error_of_produce(ask_raw(line, produce("orders"))) != 29
        assert error_of_produce(ask_raw(other, produce("orders"))) != 29
        all_but_it = f"fromCIDRSet: [{{cidr: 192.0.2.0/24, except: [{outside.ips[0]}/32]}}]"
        alone = f"fromCIDR: [{outside.ips[0]}/32]"
        node.write("outside", OUTSIDE + FROM % (all_but_it, "orders") + FROM % (alone, "secret"))
        node.until("it may produce something else", lambda: may_produce("secret"))
        assert may_produce("orders") is False
        with suppress(ConnectionError):
            assert ask_raw(line, produce("orders")) == b""
        assert error_of_produce(ask_raw(other, produce("orders"))) != 29
    path.unlink()
    node.until("it may not any more", lambda: may_produce("secret") is None)


def test_responses_keep_their_order_and_nobody_answers_acks_0(cluster: Cluster) -> None:
    with dial(cluster.node.frontend, cluster.broker) as line:
        asked = [produce("secret"), KafkaRequest(kafka_frames.API_VERSIONS), produce("secret"), produce("orders")]
        burst = b"".join(kafka_frames.request(each, number) for number, each in enumerate(asked * 50))
        burst = kafka_frames.request(produce("secret"), 999, acks=0) + burst
        line.sendall(burst)
        got = [int.from_bytes(receive(line)[:4]) for _ in range(len(asked) * 50)]
    assert got == list(range(len(asked) * 50))


HOSTILE = [
    pytest.param(b"\x7f\xff\xff\xff", id="a length of two gigabytes"),
    pytest.param(b"\xff\xff\xff\xff", id="a negative length"),
    pytest.param(b"\x00\x00\x00\x01\x00" * 1_000_000, id="a million frames of one byte"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n", id="another protocol"),
    pytest.param(kafka_frames.framed(b"\x00\x00\x00\x02" + b"\xff" * 60), id="a malformed request"),
    pytest.param(kafka_frames.framed(struct.pack(">hhih", 7, 0, 1, -1)), id="an API that is hidden"),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_what_is_no_kafka_ends_the_connection_and_never_arrives(cluster: Cluster, data: bytes) -> None:
    with dial(cluster.node.frontend, cluster.broker) as line:
        with suppress(ConnectionError):  # it may end while more is sent
            line.sendall(data)
        with suppress(ConnectionError):
            assert receive(line) == b""
    with dial(cluster.node.frontend, cluster.broker) as line:
        assert ask_raw(line, KafkaRequest(kafka_frames.API_VERSIONS))


def test_ten_thousand_requests_in_flight_are_answered_in_time(cluster: Cluster) -> None:
    """More than wait at once: the client is not read from meanwhile, and all is answered in the end."""
    count = 10_000
    with dial(cluster.node.frontend, cluster.broker) as line:
        burst = b"".join(
            kafka_frames.request(produce("secret" if each % 2 else "orders"), each) for each in range(count)
        )
        sender = threading.Thread(target=line.sendall, args=(burst,))
        sender.start()
        got = [int.from_bytes(receive(line)[:4]) for _ in range(count)]
        sender.join()
    assert got == list(range(count))


def test_a_slow_sender_waits_alone(cluster: Cluster) -> None:
    frame = kafka_frames.request(produce("secret"))
    with dial(cluster.node.frontend, cluster.broker) as slow:
        for byte in frame[:-1]:
            slow.sendall(bytes([byte]))
            with dial(cluster.node.frontend, cluster.broker) as other:
                assert error_of_produce(ask_raw(other, produce("secret"))) == 29
        slow.sendall(frame[-1:])
        assert error_of_produce(receive(slow)) == 29


def test_envoy_has_lived_through_all_of_it(cluster: Cluster) -> None:
    assert cluster.node.status()["envoy"]["restarts"] == 0
    assert "panicked" not in (cluster.node.run_dir / "envoy.log").read_text(errors="replace")
