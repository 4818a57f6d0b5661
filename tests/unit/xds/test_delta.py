"""One stream with several types. https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol"""

from __future__ import annotations

from lockgate.xds.serve.delta import DeltaStream
from lockgate.xds.serve.discovery import DeltaRequest
from lockgate.xds.serve.node_memory import NodeMemory
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET, Resource, Snapshot
from lockgate.xds.wire import frame, number, text

A, B = Resource(CLUSTER, "a", b"1"), Resource(LISTENER, "b", b"1")


def test_types_are_walled_off_from_each_other() -> None:
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(CLUSTER))
    stream.receive(DeltaRequest(LISTENER))
    clusters, listeners = stream.due(Snapshot.of([A, B]), 1)
    assert (clusters.type_url, listeners.type_url) == (CLUSTER, LISTENER)
    assert stream.receive(DeltaRequest(CLUSTER, nonce=clusters.nonce, error="no")) == "no"
    assert stream.receive(DeltaRequest(LISTENER, nonce=listeners.nonce)) is None
    assert stream.rejections(Snapshot.of([A, B])) == {(CLUSTER, "a"): "no"}


def test_what_others_refer_to_goes_first() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations"""
    stream = DeltaStream(NodeMemory())
    asked = [FILTER_CONFIG, ROUTE, LISTENER, ENDPOINTS, CLUSTER]
    for type_url in asked:
        stream.receive(DeltaRequest(type_url))
    snapshot = Snapshot.of(Resource(type_url, "a", b"1") for type_url in asked)
    answered = [response.type_url for response in stream.due(snapshot, 1)]
    assert answered == [CLUSTER, ENDPOINTS, LISTENER, ROUTE, FILTER_CONFIG]


def test_a_stale_nonce_voids_the_answer_but_not_the_subscription_beside_it() -> None:
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(CLUSTER, subscribe=("a",)))
    stream.due(Snapshot.of([A]), 1)
    other = Resource(CLUSTER, "z", b"1")
    assert stream.receive(DeltaRequest(CLUSTER, subscribe=("z",), nonce="stale", error="no")) is None
    (response,) = stream.due(Snapshot.of([A, other]), 2)
    assert response.resources == (other,)
    assert stream.rejections(Snapshot.of([A, other])) == {}


def test_an_ack_may_carry_a_subscription() -> None:
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(CLUSTER, subscribe=("a",)))
    other = Resource(CLUSTER, "z", b"1")
    (first,) = stream.due(Snapshot.of([A, other]), 1)
    stream.receive(DeltaRequest(CLUSTER, subscribe=("z",), unsubscribe=("a",), nonce=first.nonce))
    (second,) = stream.due(Snapshot.of([A, other]), 1)
    assert second.resources == (other,)
    assert set(stream.subscriptions[CLUSTER].wanted()) == {"z"}


def test_initial_versions_count_in_the_first_request_only() -> None:
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(CLUSTER, subscribe=("a",), initial_versions={"a": A.version}))
    assert stream.due(Snapshot.of([A]), 1) == []
    stream.receive(DeltaRequest(CLUSTER, subscribe=("z",), initial_versions={"z": "1"}))
    (response,) = stream.due(Snapshot.of([A]), 1)
    assert response.removed == ("z",)


def test_a_client_has_answered_only_when_it_asked_for_everything() -> None:
    snapshot = Snapshot.of([A, B])
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(CLUSTER, subscribe=("a",)))
    (response,) = stream.due(snapshot, 1)
    assert not stream.has_answered(snapshot, 1)
    stream.receive(DeltaRequest(CLUSTER, nonce=response.nonce))
    stream.due(snapshot, 1)
    assert not stream.has_answered(snapshot, 1)  # not asked for the listener
    stream.receive(DeltaRequest(LISTENER))
    (response,) = stream.due(snapshot, 1)
    stream.receive(DeltaRequest(LISTENER, nonce=response.nonce))
    stream.due(snapshot, 1)
    assert stream.has_answered(snapshot, 1)
    assert not stream.has_answered(snapshot, 2)


def listener(name: str, port: int) -> Resource:
    socket = frame(1, text(2, "127.0.0.1") + number(3, port))
    return Resource(LISTENER, name, text(1, name) + frame(2, socket))


def play(stream: DeltaStream, snapshot: Snapshot, revision: int) -> list[tuple[list[str], list[str]]]:
    """Responses one after the other, each acknowledged: names that come, names that go."""
    told = []
    while responses := stream.due(snapshot, revision):
        for response in responses:
            told.append(([each.name for each in response.resources], list(response.removed)))
            stream.receive(DeltaRequest(response.type_url, nonce=response.nonce))
    return told


def test_a_listener_that_gives_its_address_to_another_goes_first() -> None:
    """Envoy refuses two listeners at one address.
    https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/lds"""
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(LISTENER))
    assert play(stream, Snapshot.of([listener("a", 1), listener("b", 2)]), 1) == [(["a", "b"], [])]
    renamed = Snapshot.of([listener("b", 2), listener("c", 1)])
    assert play(stream, renamed, 2) == [([], ["a"]), (["c"], [])]
    moved = Snapshot.of([listener("b", 3), listener("c", 1), listener("d", 2)])
    assert play(stream, moved, 3) == [(["b"], []), (["d"], [])]
    assert stream.has_answered(moved, 3)
    both = Snapshot.of([*moved.of_type(LISTENER).values(), listener("e", 1)])
    assert play(stream, both, 4) == [(["e"], [])], "nobody makes room: what Envoy says of it is told"


def test_a_listener_of_before_that_nobody_knows_goes_before_another_comes() -> None:
    stream = DeltaStream(NodeMemory())
    stream.receive(DeltaRequest(LISTENER, initial_versions={"old": "of another server"}))
    assert play(stream, Snapshot.of([listener("new", 1)]), 1) == [([], ["old"]), (["new"], [])]


SECRET_A, SECRET_B = Resource(SECRET, "a", b"1"), Resource(SECRET, "b", b"1")


def test_secrets_are_sent_again_on_reconnect_to_who_does_not_hold_them() -> None:
    """A client that starts afresh names its secrets and holds none, whatever its node held before.
    https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
    https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
    """
    memory, snapshot = NodeMemory(), Snapshot.of([SECRET_A, SECRET_B])
    for variant in (0, 1):  # the first connection and the second
        stream = DeltaStream(memory)
        stream.receive(DeltaRequest(SECRET, subscribe=("a", "b")))
        assert play(stream, snapshot, 1 + variant) == [(["a", "b"], [])]
    back = DeltaStream(memory)
    back.receive(DeltaRequest(SECRET, subscribe=("a", "b"), initial_versions={"a": SECRET_A.version, "b": "older"}))
    assert play(back, snapshot, 3) == [(["b"], [])], "what it holds is known by its version"
