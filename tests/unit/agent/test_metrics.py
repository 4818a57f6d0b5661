"""The metrics: what is counted, and that nothing a user writes makes a series."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lockgate.agent.force.kernel_side import Kernel
from lockgate.agent.inspection.metrics import Exposition, Metrics, families_of, summaries
from lockgate.agent.inspection.node_state import NodeState
from lockgate.agent.inspection.view import NodeView
from lockgate.agent.settings import Settings
from lockgate.agent.supply.endpoints import Discovery
from lockgate.agent.supply.intake import Intake
from lockgate.policies import World, parse_policies
from lockgate.policies.endpoint_policy import Direction
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Workload
from lockgate.redirect.reason import Counter, Reason
from lockgate.xds import FILTER_CONFIG, LISTENER, XdsServer
from prometheus_client.parser import text_string_to_metric_families

POLICY = """---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: NAME}}
  ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
"""
COUNTS = {"looks": 5, "drift": 1, "repaired": 2, "searches": 3, "streams": 4, "deaf_stream": 6, "deaf_replacement": 7}


def samples(text: bytes) -> dict[str, float]:
    """name{labels} -> value."""
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def exposition(metrics: Metrics, view: NodeView) -> Exposition:
    return Exposition(metrics, Path("/nowhere/admin.sock"), view.status, view.datapath, lambda: COUNTS)


def node(policies: int, endpoints: int) -> NodeView:
    """A node with that many policies and endpoints."""
    text = "".join(POLICY.replace("NAME", f"p{number}") for number in range(policies)).encode()
    parsed = parse_policies(text, "p.yaml").policies
    local = tuple(
        replace(
            endpoint_of(
                Workload(f"w{number}", "default", (("app", f"p{number}"),), ips=(ip_address(0x0A000000 + number),))
            ),
            ifindex=number + 1,
            interface=f"veth{number}",
        )
        for number in range(endpoints)
    )
    state = NodeState(Settings(Path("/p"), Path("/w")), intake=Intake(policies=parsed), discovery=Discovery(local))
    state.world = World.of(parsed, local)
    counters = tuple(Counter(direction, reason, 7) for direction in Direction for reason in Reason)

    async def kernel() -> Kernel:
        return Kernel(frozenset(range(1, endpoints + 1)), {"policy": 3, "endpoints": endpoints, "ipcache": 9}, counters)

    return NodeView(state, kernel, XdsServer(Path("/nowhere/xds.sock")))


async def test_what_goes_over_the_streams_is_counted_and_timed() -> None:
    metrics = Metrics()
    metrics.sent(1, FILTER_CONFIG, "1")
    metrics.sent(1, LISTENER, "1")
    metrics.sent(2, "type.googleapis.com/of.ones.Own", "1")
    metrics.answered(1, FILTER_CONFIG, "1", refused=False)
    metrics.answered(1, LISTENER, "1", refused=True)
    metrics.answered(1, LISTENER, "stale", refused=False)
    metrics.left(2)
    metrics.answered(2, FILTER_CONFIG, "1", refused=False)
    metrics.change_made(0.3)
    metrics.effect_seen(0.4)
    found = samples(await exposition(metrics, node(1, 1)).text())
    assert found["lockgate_xds_pushes_total,type=TypedExtensionConfig"] == 1
    assert found["lockgate_xds_pushes_total,type=other"] == 1
    assert found["lockgate_xds_acks_total,type=TypedExtensionConfig"] == 2
    assert found["lockgate_xds_nacks_total,type=Listener"] == 1
    assert found["lockgate_xds_nacks_total,type=Secret"] == 0
    assert found["lockgate_xds_ack_seconds_count"] == 2, "only answers to what was sent are timed"
    assert (found["lockgate_change_seconds_sum"], found["lockgate_effect_seconds_sum"]) == (0.3, 0.4)
    assert "lockgate_policies,state=enforced" in found, "also while Envoy does not answer"


async def test_what_is_is_read_when_it_is_asked_for() -> None:
    view = node(3, 2)
    found = samples(await exposition(Metrics(), view).text())
    assert found["lockgate_policies,state=enforced"] == 3
    assert found["lockgate_endpoints,place=local"] == 2
    assert found["lockgate_datapath_packets_total,direction=ingress,dropped=true,reason=policy"] == 7
    assert found["lockgate_datapath_packets_total,direction=egress,dropped=false,reason=allowed"] == 7
    assert found["lockgate_datapath_entries,map=ipcache"] == 9
    assert (found["lockgate_ready"], found["lockgate_envoy_up"]) == (0, 0)
    assert (found["lockgate_drift"], found["lockgate_drift_repaired_total"]) == (1, 2)
    assert (found["lockgate_nack_searches_total"], found["lockgate_effect_looks_total"]) == (3, 5)


async def test_the_number_of_series_does_not_grow_with_the_policies() -> None:
    """600 in all is the aim; a live node's, with those of Envoy, are counted in tests/e2e/test_effect.py."""
    few, many = node(1, 1), node(5000, 200)
    counted = [len(samples(await exposition(Metrics(), view).text())) for view in (few, many)]
    assert counted[0] == counted[1] < 250


def test_of_envoys_histograms_there_are_count_and_sum() -> None:
    text = (
        "# TYPE a_ms histogram\n"
        'a_ms_bucket{x="y",le="0.5"} 1\na_ms_bucket{x="y",le="+Inf"} 2\na_ms_sum{x="y"} 7\na_ms_count{x="y"} 2\n'
        "# TYPE leaky_bucket_total counter\nleaky_bucket_total{} 3\n"
    )
    (family, other) = text_string_to_metric_families(summaries(text))
    assert (family.type, sorted(sample.name for sample in family.samples)) == ("summary", ["a_ms_count", "a_ms_sum"])
    assert [sample.value for sample in other.samples] == [3]


async def test_what_the_dns_proxy_did() -> None:
    view = node(1, 1)
    dns = {"forwarded": 7, "refused": 2, "learned": 5}
    exposed = Exposition(Metrics(), Path("/nowhere"), view.status, view.datapath, lambda: COUNTS, lambda: dns)
    found = samples(await exposed.text())
    assert found["lockgate_dns_messages_total,event=forwarded"] == 7
    assert found["lockgate_dns_messages_total,event=refused"] == 2
    assert found["lockgate_dns_learned"] == 5


def test_every_xds_state_is_a_series_whatever_is_there() -> None:
    resources = [{"state": "NACK"}, {"state": "SYNCED"}, {"state": "SYNCED"}]
    entry: dict[str, Any] = {"node": "n", "remote": False, "type": "Cluster", "resources": resources}
    remote = [
        {"node": node, "remote": True, "type": kind, "state": state, "resources": []}
        for node, kind, state in (
            ("m", "-", "STALE"),
            ("o", "Cluster", "SYNCED"),
            ("o", "Listener", "NACK"),
            ("p", "Cluster", "STALE"),
        )
    ]
    status: dict[str, Any] = {
        "ok": True,
        "problems": [],
        "agent": {"revision": 4},
        "policies": {"enforced": 1, "stale": 0, "nacked": 1, "overfull": 3, "nacked_by_node": {"edge-1": 2}},
        "endpoints": {"local": 1, "known": 1},
        "xds": [entry, *remote],
        "envoy": {"state": "running", "restarts": 2, "hangs": 1},
    }
    datapath: dict[str, Any] = {
        "counters": [],
        "maps": {},
        "room": {"policy": 80},
        "wanted": {"policy": 160},
        "interfaces": ["veth0"],
    }
    found = {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in families_of(status, datapath, COUNTS)
        for sample in family.samples
    }
    assert [found[f"lockgate_xds_resources{state}"] for state in ("SYNCED", "STALE", "NACK")] == [2, 0, 1]
    assert found["lockgate_xds_clients"] == 3
    by_state = {state: found[f"lockgate_xds_remote_nodes{state}"] for state in ("SYNCED", "STALE", "NACK", "ABSENT")}
    assert by_state == {"SYNCED": 0, "STALE": 1, "NACK": 1, "ABSENT": 1}
    assert found["lockgate_envoy_restarts_total"] == 2
    assert found["lockgate_envoy_hangs_total"] == 1
    assert [found[f"lockgate_envoy_deaf_total{cure}"] for cure in ("stream", "replacement")] == [6, 7]
    assert found["lockgate_policiesnack"] == 1
    assert found["lockgate_policiesno-room"] == 3
    assert [found[f"lockgate_datapath_{what}policy"] for what in ("room", "entries_refused")] == [80, 160]
    assert found["lockgate_remote_refused_policiesedge-1"] == 2
