"""A policy that the kernel's maps have no room for: it alone is held back, it is said, and it comes into force once
there is room."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from lockgate.agent.inspection.client import ask
from lockgate.redirect import layout
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, LiveNode, fetch, live_node
from lockgate.tests.e2e.test_effect import metrics
from lockgate.tests.scarcity import pin_small
from lockgate.tests.unit.agent.test_metrics import samples

BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"
ROOM = {layout.POLICY: 80, layout.IPCACHE: 40}  # entries
OUTSIDE = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: outside}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
"""
INTRUDER = OUTSIDE + "  - fromEndpoints: [{matchLabels: {app: intruder}}]\n    toPorts: [{ports: [{port: '8080'}]}]\n"


@pytest.fixture(scope="module", name="module_node")
def node_with_small_maps() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        for codec, room in ROOM.items():
            pin_small(made.settings.pin_dir / "maps", codec, room)  # type: ignore[arg-type]
        made.start_agent()
        yield made


@pytest.fixture
def node(module_node: LiveNode) -> Iterator[LiveNode]:
    yield module_node
    (module_node.policies / "outside.yaml").unlink(missing_ok=True)
    module_node.write("allow-frontend-to-backend", BACKEND)
    module_node.until("all is well", module_node.ok)
    module_node.becomes(OK, lambda: backend(module_node))
    module_node.becomes(DROPPED, lambda: backend(module_node, "intruder"))


def ports(number: int = 40) -> str:
    rules = ""
    for first in (1000, 2000):
        listed = ", ".join(f"{{port: '{port}', protocol: TCP}}" for port in range(first, first + 2 * number, 2))
        rules += f"  - fromEndpoints: [{{matchLabels: {{app: frontend}}}}]\n    toPorts: [{{ports: [{listed}]}}]\n"
    return OUTSIDE + rules


def networks() -> str:
    return OUTSIDE + "".join(f"  - fromCIDR: [192.0.2.{number}/32]\n" for number in range(35))


def backend(node: LiveNode, where: str = "frontend") -> str:
    pod = node.frontend if where == "frontend" else node.intruder
    return fetch(pod, node.backend.ipv4, 8080, patience=GLANCE)


def no_room(node: LiveNode) -> dict[str, Any]:
    """What is said of the policy; empty when there is room for it."""
    answer = {each["policy"]: each["no_room"] for each in ask(node.run_dir, "/v1/policies")}
    return answer.get("default/outside") or {}


@pytest.mark.parametrize(("text", "table", "wants"), [(ports(), "policy", 80), (networks(), "ipcache", 35)])
def test_it_holds_up_no_other(node: LiveNode, text: str, table: str, wants: int) -> None:
    path = node.write("outside", text)
    told = node.until("it is told", lambda: no_room(node))
    assert (told["map"], told["room"], told["enforced"]) == (table, ROOM[getattr(layout, table.upper())], "denied")
    assert told["wants"] >= wants
    assert told["wants"] + told["others"] > told["room"]
    sentence = f"{path}:2: policy default/outside wants {told['wants']} entries of the BPF map {table}, which holds "
    status = node.lockgate("status")
    assert status.status == 1
    assert f"problem    {sentence}" in status.out
    assert "1 without room in the kernel" in status.out
    shown = node.lockgate("policy", "get", "outside").out
    assert "state      no-room\n" in shown
    assert f"wants      {told['wants']} entries of the BPF map {table} ({told['room']} in all, " in shown
    assert "in force   nothing of it: what only it allows is denied\n" in shown
    found = samples(metrics(node))
    assert found["lockgate_policies,state=no-room"] == 1
    assert found[f"lockgate_datapath_room,map={table}"] == told["room"]
    assert found[f"lockgate_datapath_entries_refused,map={table}"] == told["wants"]

    assert backend(node) == OK, "another policy allows it"
    assert backend(node, "intruder") == DROPPED
    node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
    node.becomes(DROPPED, lambda: backend(node))
    node.write("allow-frontend-to-backend", BACKEND)
    node.becomes(OK, lambda: backend(node))
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert no_room(node)
    node.write("outside", ports(5))
    node.until("there is room", lambda: not no_room(node) and node.ok())


def test_its_last_good_version_stays_and_outlives_the_agent(node: LiveNode) -> None:
    node.write("outside", INTRUDER)
    node.becomes(OK, lambda: backend(node, "intruder"))
    node.write("outside", ports())
    told = node.until("it is told", lambda: no_room(node))
    assert told["enforced"] == "older"
    assert backend(node, "intruder") == OK
    node.end_agent(signal.SIGKILL)
    node.start_agent(ready=False)
    assert node.until("it is told again", lambda: node.status() and no_room(node))["enforced"] == "older"
    assert backend(node, "intruder") == OK
    node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
    node.becomes(DROPPED, lambda: backend(node))
    assert backend(node, "intruder") == OK


def test_what_goes_makes_room(node: LiveNode) -> None:
    """Nothing else has to come: what was in force counts until it has gone."""
    node.write("outside", ports(20))
    node.until("it is in force", node.ok)
    node.write("other", ports(20).replace("name: outside", "name: other").replace("app: backend", "app: intruder"))
    node.until("there is no room for another", lambda: node.lockgate("policy", "get", "other").out.count("no-room"))
    (node.policies / "outside.yaml").unlink()
    node.until("there is", node.ok)
    (node.policies / "other.yaml").unlink()
