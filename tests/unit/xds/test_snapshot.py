from __future__ import annotations

from lockgate.xds.snapshot import CLUSTER, LISTENER, Resource, Snapshot


def test_a_version_is_the_content() -> None:
    assert Resource(CLUSTER, "a", b"1").version == Resource(LISTENER, "b", b"1").version
    assert Resource(CLUSTER, "a", b"1").version != Resource(CLUSTER, "a", b"2").version


def test_resources_are_found_by_type_and_name() -> None:
    a, b = Resource(CLUSTER, "a", b"1"), Resource(LISTENER, "a", b"2")
    snapshot = Snapshot.of([a, b, Resource(CLUSTER, "z", b"0"), Resource(CLUSTER, "z", b"1")])
    assert snapshot.of_type(CLUSTER) == {"a": a, "z": Resource(CLUSTER, "z", b"1")}
    assert snapshot.of_type(LISTENER)["a"] is b
    assert snapshot.of_type("unheard of") == {}
    assert Snapshot() == Snapshot.of([])
    assert snapshot != Snapshot.of([a, b])


def test_content_is_not_in_the_repr() -> None:
    assert "secret" not in repr(Snapshot.of([Resource(CLUSTER, "a", b"secret")]))
