"""Confirmed beside in force: what counts as drift."""

from __future__ import annotations

from typing import Any

from lockgate.agent.force.effect import Drift, Name, confirmed, drifted
from lockgate.envoy.inspection.in_force import InForce, named_query, read_versions, versions_query
from lockgate.xds import FILTER_CONFIG, LISTENER, ClientStatus, ResourceStatus, SyncState, TypeStatus
from lockgate.xds.serve.status import Moment

NOW = Moment(0.0, 0.0)
FILTER, OTHER = Name(FILTER_CONFIG, "lockgate.http.ingress"), Name(LISTENER, "lockgate.tls")


def test_what_was_confirmed_is_read_off_the_status() -> None:
    resources = (
        ResourceStatus("a", SyncState.SYNCED, "2", "2"),
        ResourceStatus("b", SyncState.NACK, "3", "1", "no"),
        ResourceStatus("c", SyncState.STALE, "3", None),
    )
    client = ClientStatus("node", NOW, (TypeStatus(FILTER_CONFIG, SyncState.NACK, NOW, resources),))
    assert confirmed(client) == {Name(FILTER_CONFIG, "a"): "2", Name(FILTER_CONFIG, "b"): "1"}


def test_drift_is_another_version_than_the_confirmed() -> None:
    wanted = {FILTER: "2", OTHER: "5"}
    types = (FILTER_CONFIG, LISTENER)
    assert drifted(wanted, {FILTER: InForce("2"), OTHER: InForce("5")}, types) == ()
    found = drifted(wanted, {FILTER: InForce("1", "too bad", "2")}, types)
    assert found == (Drift(FILTER, "2", "1", "too bad"), Drift(OTHER, "5", None))
    assert str(found[1]) == (
        "Envoy confirmed version 5 of Listener lockgate.tls, but has none in force; it is sent again"
    )
    assert "version 1 in force (too bad); it is sent again" in str(found[0])
    assert drifted(wanted, {FILTER: InForce("2")}, (FILTER_CONFIG,)) == (), "nobody asked about listeners"


def entry(**fields: Any) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/envoy.admin.v3.Something", **fields}


def test_versions_are_read_from_masked_dumps() -> None:
    assert versions_query("TypedExtensionConfig") == ("ecds_filters", "version_info,error_state,ecds_filter.name")
    assert versions_query("ClusterLoadAssignment") is None
    dump = {
        "configs": [
            entry(version_info="1", ecds_filter={"name": "filter"}),
            entry(name="secret", version_info="2"),
            entry(name="refused", error_state={"details": "no", "version_info": "3"}),
            entry(version_info="4", cluster={"name": "cluster"}),
            entry(name="listener", active_state={"version_info": "5"}, warming_state={"version_info": "6"}),
            entry(name="new", warming_state={"version_info": "7"}),
            entry(name="bad", error_state={"details": "no"}),
        ]
    }
    assert read_versions(dump) == {
        "filter": InForce("1"),
        "secret": InForce("2"),
        "refused": InForce(None, "no", "3"),
        "cluster": InForce("4"),
        "listener": InForce("5"),
        "new": InForce("7"),
        "bad": InForce(None, "no"),
    }
    assert read_versions({}) == {}
    whole = {"configs": [{"ecds_filters": [entry(version_info="1", ecds_filter={"name": "a.b"})]}]}
    assert read_versions(whole) == {"a.b": InForce("1")}
    assert named_query({"b", "a.b"}) == r"^(?:a\.b|b)$"
