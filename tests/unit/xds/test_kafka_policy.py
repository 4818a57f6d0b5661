"""The Kafka filter's configuration as text; what the filter makes of it is in tests/unit/envoy/test_kafka_judge.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.network.dynamic_modules.v3 import DynamicModuleNetworkFilter
from envoy_data_plane.google.protobuf import BytesValue
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.workload import Endpoint
from lockgate.tests.unit.xds.policy_strategies import endpoint, origin
from lockgate.xds.compile.kafka_policy import KAFKA_FILTER, KafkaCompiler, kafka_policed_by, rule_line
from lockgate.xds.snapshot import FILTER_CONFIG

OWN = endpoint("default/own", 400, "10.0.0.9", "fd00::9")
KAFKA = KafkaRules((KafkaRule(frozenset({0, 3}), topic="orders"), KafkaRule(client_id="a b|c")))
ORIGIN = origin("p")
BROKER = (PortSpan(Protocol.TCP, 9092, 9093),)


def rule(peers: frozenset[int] | None, l7: KafkaRules | HttpRules | None = None, deny: bool = False) -> ResolvedRule:
    return ResolvedRule(ORIGIN, deny, peers, BROKER, l7)


def text(half: DirectionPolicy, endpoints: Sequence[Endpoint] = (OWN,)) -> list[str]:
    pairs = [(each, EndpointPolicy(ingress=half)) for each in endpoints]
    policed = frozenset((each.identity, Direction.INGRESS) for each in endpoints)
    resource = KafkaCompiler(Path("/run/log")).compile(pairs, policed)
    assert (resource.type_url, resource.name) == (FILTER_CONFIG, KAFKA_FILTER)
    extension = TypedExtensionConfig.parse(resource.body)
    assert extension.typed_config is not None
    module = DynamicModuleNetworkFilter.parse(extension.typed_config.value)
    assert module.dynamic_module_config is not None and module.dynamic_module_config.do_not_close
    assert (module.dynamic_module_config.name, module.filter_name) == ("lockgate", "lockgate.kafka")
    assert module.filter_config is not None
    return BytesValue.parse(module.filter_config.value).value.decode().splitlines()


def test_rules_ports_peers_and_whose_they_are() -> None:
    half = DirectionPolicy(True, (rule(frozenset({300}), KAFKA), rule(frozenset({301}))))
    unmatched = "identity:400:ingress:no-rule-matched"
    assert text(half) == [
        "lockgate-kafka 1",
        "log /run/log",
        "set",
        "rule 0,3|||orders",
        "rule ||a%20b%7Cc|",
        f"half deny {unmatched}",
        "ports 9092-9093",
        f"peers 300 set 0 no-rule-matched:{ORIGIN}",
        f"peers 301 allow {ORIGIN}",
        f"others deny {unmatched}",
        "own ingress 400 0",
        "known 400",
    ]


def test_nobody_policed_is_a_policy_too() -> None:
    assert text(DirectionPolicy(), ()) == ["lockgate-kafka 1", "log /run/log"]


@pytest.mark.parametrize(
    ("rules", "others"),
    [
        ([rule(None, KAFKA), rule(None, deny=True)], f"others deny {origin('p')}"),
        ([rule(None, KAFKA), rule(None)], f"others allow {origin('p')}"),
        (
            [rule(None, KAFKA), rule(None, HttpRules((HttpRule(),)))],
            "others deny identity:400:ingress:no-rule-matched",
        ),
    ],
)
def test_what_several_rules_say_together(rules: list[ResolvedRule], others: str) -> None:
    assert others in text(DirectionPolicy(True, tuple(rules)))


def test_an_open_default_lets_every_request_through() -> None:
    lines = text(DirectionPolicy(False, (rule(frozenset({300}), KAFKA),)))
    assert "half allow identity:400:ingress:default-allow" in lines
    assert not any(line.startswith("peers") for line in lines)


def test_endpoints_of_one_identity_share_a_half_unless_they_differ() -> None:
    twin = endpoint("default/twin", 400, "10.0.0.8")
    half = DirectionPolicy(True, (rule(None, KAFKA),))
    assert [line for line in text(half, (OWN, twin)) if line.startswith("own")] == ["own ingress 400 0"]
    policies = ((OWN, EndpointPolicy(half)), (twin, EndpointPolicy(DirectionPolicy(True))))
    resource = KafkaCompiler(Path("/log")).compile(policies, frozenset({(400, Direction.INGRESS)}))
    for line in (b"own ingress 400 0 10.0.0.9", b"own ingress 400 0 fd00::9", b"own ingress 400 1 10.0.0.8"):
        assert line in resource.body


def test_who_is_policed() -> None:
    policy = EndpointPolicy(egress=DirectionPolicy(True, (rule(None, KAFKA),)), ingress=DirectionPolicy(True))
    assert kafka_policed_by([(OWN, policy)]) == {(400, Direction.EGRESS)}


def test_a_rule_is_one_line() -> None:
    assert rule_line(KafkaRule()) == "|||"
    assert rule_line(KafkaRule(frozenset({1}), 7, "c", "t")) == "1|7|c|t"
