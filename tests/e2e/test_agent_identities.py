"""A live node tells its Envoy about identities and nothing about addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from lockgate.agent.inspection.client import ask
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line, LiveNode, fetch
from lockgate.xds import end_text

RESPONSES = r"update_attempt$|config_reload$|listener_manager.lds"  # what Envoy counts of what it is told


@pytest.fixture(name="node", scope="module")
def running_node() -> Iterator[LiveNode]:
    node = LiveNode()
    try:
        node.start_agent()
        yield node
    finally:
        node.close()


def owners(node: LiveNode) -> int:
    """Entries of the kernel's ipcache."""
    return int(ask(node.run_dir, "/v1/datapath")["maps"]["ipcache"])


def replicas(node: LiveNode, count: int) -> None:
    """The node's pods, and as many replicas of the frontend elsewhere."""
    listed = yaml.safe_load(node.ground.workloads_yaml())
    like = next(each for each in listed["workloads"] if each["name"] == "frontend")
    for number in range(count):
        listed["workloads"].append(
            {
                "name": f"frontend-{number}",
                "namespace": like.get("namespace", "default"),
                "labels": like["labels"],
                "ips": [f"10.77.{number // 250}.{number % 250 + 1}"],
            }
        )
    node.replace(node.workloads, json.dumps(listed))


def test_a_thousand_pods_of_a_known_identity_are_not_told_to_envoy(node: LiveNode) -> None:
    node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users"))
    told, before = node.stat(RESPONSES), owners(node)
    replicas(node, 1000)
    node.until("the kernel knows them", lambda: owners(node) == before + 1000)
    node.until("the agent is done", node.ok)
    assert node.stat(RESPONSES) == told > 0
    assert fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users") == OK
    replicas(node, 0)
    node.until("the kernel has forgotten them", lambda: owners(node) == before)
    assert node.stat(RESPONSES) == told


def test_a_denial_is_logged_with_the_identities_of_both_ends(node: LiveNode) -> None:
    node.becomes(DENIED, lambda: fetch(node.frontend, node.api.ipv4, 80, "/identities"))

    def logged() -> list[dict[str, Any]]:
        lines = (node.run_dir / "requests.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["path"] == "/identities"]

    line = node.until("the denial is logged", logged)[-1]
    listed = {each["endpoint"]: each["identity"] for each in node.lockgate("endpoint", "list", "-o", "json").data}
    assert line["source_identity"] == end_text(listed["default/frontend"], here=True)
    assert line["destination_identity"] == end_text(listed["default/api-server"], here=True)


def relabel(node: LiveNode, **labels: str) -> None:
    """Gives the frontend other labels; it keeps its addresses and its connections."""
    listed = yaml.safe_load(node.ground.workloads_yaml())
    next(each for each in listed["workloads"] if each["name"] == "frontend")["labels"] = labels
    node.replace(node.workloads, json.dumps(listed))


def test_a_pod_that_gets_other_labels_loses_what_it_held_as_who_it_was(node: LiveNode) -> None:
    """A replica elsewhere keeps the old identity alive, so that nothing else would end it."""
    replicas(node, 1)
    node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users"))
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask("/api/v1/users")) == OK
        relabel(node, app="frontend", role="retired")
        node.until("the connection is reset", lambda: str(line.ask("/api/v1/users")) == CLOSED)
    node.becomes(DROPPED, lambda: fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users", patience=GLANCE))
    relabel(node, app="frontend", role="frontend")
    node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users"))
