"""One stream with several types. https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol"""

from __future__ import annotations

from lockgate.xds.delta import DeltaStream
from lockgate.xds.discovery import DeltaRequest
from lockgate.xds.node_memory import NodeMemory
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, Resource, Snapshot

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
    """#eventual-consistency-considerations"""
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
