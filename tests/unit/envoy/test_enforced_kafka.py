"""The Kafka filter's page read back as rules: what the compiler writes comes out as what the policy says."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from lockgate.agent.inspection.rbac_view import Row, rows
from lockgate.envoy.inspection.enforced_kafka import kafka_rules
from lockgate.policies import World, parse_policies
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Workload
from lockgate.xds.compile.kafka_policy import KafkaCompiler, kafka_policed_by

POLICY = b"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: kafka}
spec:
  endpointSelector: {matchLabels: {app: broker}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: shop}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules:
        kafka:
        - {role: produce, topic: orders}
        - {apiKey: createtopics, apiVersion: "7", clientID: "set up"}
"""


def dumped(page: bytes) -> dict[str, Any]:
    config = {"filter_config": {"value": b64encode(page).decode()}}
    return {"configs": [{"ecds_filter": {"name": "lockgate.kafka", "typed_config": config}}]}


def compiled() -> tuple[World, bytes]:
    world = World.of(
        parse_policies(POLICY, "kafka.yaml").policies,
        [endpoint_of(Workload(name, "default", (("app", name),))) for name in ("shop", "broker")],
    )
    pairs = [(endpoint, world.policy_of(endpoint)) for endpoint in world.endpoints]
    body = KafkaCompiler(Path("/log")).compile(pairs, kafka_policed_by(pairs)).body
    return world, body[body.index(b"lockgate-kafka 1") :]


def shown(world: World, page: bytes, name: str) -> list[Row]:
    endpoint = world.endpoint(f"default/{name}")
    shop = world.endpoint("default/shop")
    assert endpoint is not None and shop is not None
    names = {str(shop.identity): "default/shop", "1": "reserved:host"}
    return rows(kafka_rules(dumped(page), endpoint.identity, ()), names)


def test_every_rule_is_read_back_with_its_policy() -> None:
    found = shown(*compiled(), "broker")
    place = ("default/kafka", "spec.ingress[0].toPorts[0]")
    said = [(row.peer, row.port, row.method, row.more, row.verdict, row.policy, row.rule) for row in found]
    assert said[:4] == [
        ("reserved:host", "any", "any", "", "allow", "local-host", "built-in"),
        ("default/shop", "9092", "produce", "topic: orders", "allow", *place),
        ("default/shop", "9092", "createtopics", "client: set up; version: 7", "allow", *place),
        ("default/shop", "9092", "otherwise", "", "deny", "", f"no-rule-matched:{':'.join(place)}"),
    ]
    assert {(row.peer, row.verdict) for row in found[4:]} <= {("otherwise", "deny"), ("any", "deny")}
    assert {(row.direction, row.protocol) for row in found} == {("ingress", "kafka")}


def test_who_has_no_kafka_rules_has_none() -> None:
    assert shown(*compiled(), "shop") == []
    assert list(kafka_rules({}, 1, ())) == []
    assert list(kafka_rules(dumped(b"\xff"), 1, ())) == []


def test_endpoints_of_one_identity_are_told_apart_by_address() -> None:
    page = b"""lockgate-kafka 1
half deny a
half allow b
own ingress 300 0 10.0.0.1
own ingress 300 1 10.0.0.2
known 300"""
    assert [rule.name for rule in kafka_rules(dumped(page), 300, ["10.0.0.2"])] == ["b"]
