"""The Kafka filter against the verdict function, and against an implementation of Kafka's messages that is not ours.

kio's classes come from Kafka's own message definitions: what they write the filter must read, and what the filter
answers they must read.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import typing
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import UnionType
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.network.dynamic_modules.v3 import DynamicModuleNetworkFilter
from envoy_data_plane.google.protobuf import BytesValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import i16, i32
from lockgate.policies import Direction, KafkaRequest, Verdict
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    EndpointPolicy,
    KafkaRule,
    KafkaRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.kafka_api import API_KEYS
from lockgate.policies.verdict import judge
from lockgate.tests.e2e import kafka_frames
from lockgate.tests.unit.envoy.kafka_probe import Probe, probe
from lockgate.tests.unit.xds.policy_strategies import endpoint, origin
from lockgate.xds import KafkaCompiler

OWN = endpoint("default/own", 400, "10.0.0.9")
PEERS = (300, 301, 2)
KEYS = {name: API_KEYS[name] for name in ("produce", "fetch", "joingroup", "createtopics", "deletetopics")}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    with probe(tmp_path_factory.mktemp("probe")) as running:
        yield running


def text_of(half: DirectionPolicy) -> str:
    policed = frozenset({(OWN.identity, Direction.INGRESS)})
    resource = KafkaCompiler(Path("/log")).compile([(OWN, EndpointPolicy(ingress=half))], policed)
    extension = TypedExtensionConfig.parse(resource.body).typed_config
    assert extension is not None
    given_config = DynamicModuleNetworkFilter.parse(extension.value).filter_config
    assert given_config is not None
    return BytesValue.parse(given_config.value).value.decode()


keys = st.sampled_from(sorted(KEYS.values()))
topics = st.sampled_from(["a", "b", "c"])
kafka_rules = st.builds(
    KafkaRule,
    st.frozensets(keys, max_size=2),
    st.sampled_from([None, None, 2, 4]),
    st.sampled_from([None, None, "app", "other|%"]),
    st.one_of(st.none(), topics),
)
resolved = st.builds(
    lambda name, deny, peers, port, l7: ResolvedRule(
        origin(name), deny, peers, (PortSpan(Protocol.TCP, port, port + 1),), None if deny else l7
    ),
    st.sampled_from(["p", "q"]),
    st.sampled_from([False] * 9 + [True]),
    st.one_of(st.none(), st.frozensets(st.sampled_from([300, 301, 2]), max_size=2)),
    st.sampled_from([9092, 9093]),
    st.one_of(
        *[st.builds(KafkaRules, st.lists(kafka_rules, min_size=1, max_size=3).map(tuple))] * 5,
        st.none(),
    ),
)
halves = st.builds(
    DirectionPolicy, st.sampled_from([True, True, True, False]), st.lists(resolved, max_size=4).map(tuple)
)
requests = st.builds(
    lambda key, client, names: KafkaRequest(key, {0: 2, 1: 4}.get(key, 0), client, frozenset(names)),
    keys,
    st.sampled_from(["app", "other|%", ""]),
    st.frozensets(topics, max_size=3),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(half=halves, request=requests, peer=st.sampled_from(PEERS), port=st.sampled_from([9092, 9093, 9094]))
def test_the_filter_says_what_the_verdict_function_says(
    session: Probe, half: DirectionPolicy, request: KafkaRequest, peer: int, port: int
) -> None:
    if request.api_key == KEYS["joingroup"]:
        request = dataclasses.replace(request, topics=frozenset())
    session.policy(text_of(half))
    session.connect(peer, OWN.identity, port)
    frame = kafka_frames.request(request)
    came = session.client(frame)
    expected = judge(half, peer, Protocol.TCP, port, request).verdict
    allowed = len(came.passed) == len(frame)
    assert allowed == (expected is Verdict.ALLOW), (came, expected)
    assert allowed or came.denials


ALLOWED = """\
lockgate-kafka 1
set
rule |||allowed
half deny no
ports 0-65535
others set 0 no
own ingress 400 0
"""
EVERYTHING = ALLOWED.replace("|||allowed", "|||")
NOTHING = ALLOWED.replace("|||allowed", "127|||")
API_VERSIONS, FETCH = kafka_frames.API_VERSIONS, KEYS["fetch"]
DESCRIBE_LOG_DIRS = API_KEYS["describelogdirs"]
UNTESTED = {17}  # SaslHandshake: what comes behind version 0 is no request, so it is closed


def known() -> list[tuple[int, int]]:
    """The APIs and versions of the filter's table that kio knows."""
    source = (Path(__file__).parents[3] / "envoy/module/kafka/apis.rs").read_text()
    found = []
    for line in source.splitlines():
        words = line.split()
        if len(words) == 6 and words[0].isdigit():
            for version in range(int(words[2]), int(words[3]) + 1):
                try:
                    load_request_schema(i16(int(words[0])), i16(version))
                except Exception:
                    continue
                found.append((int(words[0]), version))
    return found


def make(kind: Any, random: Random, name: str = "") -> Any:
    """A value of a kio type. Topics are `allowed` or `secret`, other texts neither."""
    origin_type = typing.get_origin(kind)
    if origin_type in (typing.Union, UnionType):
        options = typing.get_args(kind)
        some = [each for each in options if each is not type(None)]
        if len(some) < len(options) and random.random() < 0.2 and name not in ("topics", "name", "topic_partitions"):
            return None
        return make(some[0], random, name)
    if origin_type is tuple:
        return tuple(make(typing.get_args(kind)[0], random, name) for _ in range(random.randint(1, 2)))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(  # type: ignore[operator]
            **{
                field.name: make(hints[field.name], random, field.name)
                for field in dataclasses.fields(kind)
                if field.init
            }
        )
    base = kind
    while hasattr(base, "__supertype__"):
        base = base.__supertype__
    if base is bool:
        return random.random() < 0.5
    if isinstance(base, type) and issubclass(base, str):
        return kind("allowed") if "topic" in f"{kind}".lower() or name in ("topic", "topic_names") else kind("text")
    if isinstance(base, type) and issubclass(base, bytes):
        return kind(bytes(random.randrange(256) for _ in range(random.randint(0, 9))))
    if isinstance(base, type) and issubclass(base, uuid.UUID):
        return uuid.UUID(int=random.choice([0, 1]))
    if isinstance(base, type) and issubclass(base, datetime.timedelta):
        return kind.parse(datetime.timedelta(milliseconds=random.randint(0, 9)))
    if isinstance(base, type) and issubclass(base, datetime.datetime):
        return kind.parse(datetime.datetime.now(datetime.UTC).replace(microsecond=0))
    if isinstance(base, type) and issubclass(base, int):
        return kind(random.randint(0, 3))
    if isinstance(base, type) and issubclass(base, float):
        return kind(0.5)
    raise TypeError(f"{name}: {kind}")


def frame_of(request: Any, correlation: int = 7) -> bytes:
    header_type = request.__header_schema__
    values: dict[str, Any] = {
        "request_api_key": i16(request.__api_key__),
        "request_api_version": i16(request.__version__),
        "correlation_id": i32(correlation),
        "client_id": "app",
    }
    names = {field.name for field in dataclasses.fields(header_type)}
    buffer = io.BytesIO()
    entity_writer(header_type)(buffer, header_type(**{k: v for k, v in values.items() if k in names}))
    entity_writer(type(request))(buffer, request)
    return kafka_frames.framed(buffer.getvalue())


@pytest.mark.parametrize("api", sorted({key for key, _ in known()} - UNTESTED))
def test_requests_as_kafka_defines_them_are_read_to_their_end(session: Probe, api: int) -> None:
    random = Random(api)
    session.policy(EVERYTHING)
    for key, version in known():
        for _ in range(12 if key == api else 0):
            request = make(load_request_schema(i16(key), i16(version)), random)
            session.connect(2, 400, 9092)
            came = session.client(frame_of(request))
            assert not came.close, (key, version, request, came.close)


def errors(entity: Any) -> list[int]:
    """Every error code in a response."""
    if isinstance(entity, tuple):
        return [code for each in entity for code in errors(each)]
    if not dataclasses.is_dataclass(entity):
        return []
    found = []
    for field in dataclasses.fields(entity):
        value = getattr(entity, field.name)
        found += [int(value)] if field.name.endswith("error_code") and value is not None else errors(value)
    return found


@pytest.mark.parametrize("api", sorted({key for key, _ in known()} - UNTESTED - {API_VERSIONS, FETCH}))
def test_refusals_are_responses_as_kafka_defines_them(session: Probe, api: int) -> None:
    random = Random(api)
    session.policy(NOTHING)
    for key, version in known():
        for _ in range(8 if key == api else 0):
            request = make(load_request_schema(i16(key), i16(version)), random)
            session.connect(2, 400, 9092)
            came = session.client(frame_of(request))
            while came.passed:  # a question for the names of topics; nobody knows them
                came = session.server(no_names())
                came = session.client(b"")
            assert not came.close and came.denials, (key, version, request, came)
            if getattr(request, "acks", 1) == 0:
                assert not came.answer
                continue
            response = read_response(came.answer, load_response_schema(i16(key), i16(version)))
            codes = errors(response)
            assert all(code in (0, 29, 30, 31, 53, 100) for code in codes), response
            # Before version 3 a DescribeLogDirs response has no place for an error: it lists nothing.
            assert any(codes) or (key == DESCRIBE_LOG_DIRS and version < 3 and not codes), (request, response)


def read_response(frame: bytes, schema: Any) -> Any:
    """All of it, to its last byte."""
    assert int.from_bytes(frame[:4]) == len(frame) - 4
    header, size = entity_reader(schema.__header_schema__)(frame, 4)
    assert header.correlation_id == 7
    response, rest = entity_reader(schema)(frame, 4 + size)
    assert 4 + size + rest == len(frame), response
    return response


def no_names() -> bytes:
    """The answer to a question for names: no brokers, no topics."""
    schema: Any = load_response_schema(i16(3), i16(12))
    header = schema.__header_schema__
    buffer = io.BytesIO()
    entity_writer(header)(buffer, header(correlation_id=i32(0x4C470001)))
    empty = schema(throttle_time=make(typing.get_type_hints(schema)["throttle_time"], Random(0)), brokers=(), topics=())
    entity_writer(schema)(buffer, empty)
    return kafka_frames.framed(buffer.getvalue())
