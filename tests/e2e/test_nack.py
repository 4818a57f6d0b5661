"""What a real Envoy refuses, on a live node: it is tied to its policy, stops no other, and recovers by itself.

This Envoy cannot look at paths and methods: it takes `http: [{}]` and refuses everything narrower.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lockgate.agent.inspection.client import ask
from lockgate.policies import Direction
from lockgate.tests.e2e.hobbled_envoy import hobbled_envoy
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, LiveNode, fetch, live_node
from lockgate.xds import shard_name, shard_of

API = (EXAMPLES / "api-access-control.yaml").read_text()
EVERY_REQUEST = API.partition("        http:")[0] + "        http: [{}]\n"
BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
INTRUDER_TOO = BACKEND.replace("name: allow-frontend", "name: allow-intruder").replace("app: frontend", "app: intruder")
FRESH = API.replace("name: api-access-control", "name: fresh").replace("role: frontend", "app: intruder")
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"
TEXT = "Didn't find a registered implementation for 'header' with type URL: 'envoy.type.matcher.v3.HttpRequestHeader"
PLACE = "spec.ingress[0].toPorts[0].rules.http[0]"
REJECTED = "extension_config_discovery.*(update_rejected|config_fail)"


@pytest.fixture(scope="module", name="node")
def node_whose_envoy_lacks_an_extension() -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        node.write("api-access-control", EVERY_REQUEST)
        node.start_agent("--envoy", hobbled_envoy(node.folder))
        yield node


@pytest.fixture(autouse=True)
def as_it_was(node: LiveNode) -> Iterator[None]:
    yield
    for name in ("fresh", "intruder"):
        (node.policies / f"{name}.yaml").unlink(missing_ok=True)
    node.write("api-access-control", EVERY_REQUEST)
    node.until("nothing is refused any more", lambda: node.ok() and not nacks(node))
    node.becomes(DROPPED, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))


def shard(node: LiveNode) -> str:
    """The resource that the policies of api-server are in."""
    (number,) = (
        each["identity"] for each in ask(node.run_dir, "/v1/endpoints") if each["endpoint"].endswith("/api-server")
    )
    return shard_name(Direction.INGRESS, shard_of(number))


def nacks(node: LiveNode) -> dict[str, Any]:
    return {each["policy"]: each["nack"] for each in ask(node.run_dir, "/v1/policies") if each["nack"]}


def test_a_refused_policy_is_named_and_the_others_of_the_change_are_in_force(node: LiveNode) -> None:
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == OK
    rejected = node.stat(REJECTED)
    node.write("intruder", INTRUDER_TOO)
    path = node.write("api-access-control", API)
    line = 1 + API[: API.index("    - ports:")].count("\n")
    node.becomes(OK, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))
    node.until("it is reported", lambda: nacks(node))
    nack = nacks(node)["default/api-access-control"]
    assert nack.pop("text").startswith(TEXT)
    assert nack == {"resource": shard(node), "enforced": "older", "path": PLACE, "line": line}

    place = f"{path}:{line}: {PLACE}: Envoy refuses policy default/api-access-control ({shard(node)}: {TEXT}"
    status = node.lockgate("status")
    assert status.status == 1
    assert f"problem    {place}" in status.out
    assert "1 refused by Envoy" in status.out
    assert f"ERROR {place}" in node.log
    shown = node.lockgate("policy", "get", "api-access-control").out
    assert "state       nack\n" in shown
    assert f"refused     {PLACE} (line {line})\n" in shown
    assert f"envoy says  {shard(node)}: {TEXT}" in shown
    assert "in force    the last version that Envoy took\n" in shown
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == OK, "as that version says"

    # The same bytes are not sent again, whatever else changes.
    node.until("the change is in force", lambda: len(ask(node.run_dir, "/v1/policies")) == 3)
    after = node.stat(REJECTED)
    assert after > rejected
    (node.policies / "intruder.yaml").unlink()
    node.becomes(DROPPED, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))
    assert node.stat(REJECTED) == after


def test_what_a_new_policy_alone_allows_is_denied_and_mending_it_is_enough(node: LiveNode) -> None:
    assert fetch(node.intruder, node.api.ipv4, 80, USERS, patience=GLANCE) == DROPPED
    node.write("fresh", FRESH)
    node.until("it is refused", lambda: nacks(node))
    assert nacks(node)["default/fresh"]["enforced"] == "denied"
    assert fetch(node.intruder, node.api.ipv4, 80, USERS) == DENIED
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK, "another policy allows it"
    node.write("fresh", FRESH.partition("        http:")[0] + "        http: [{}]\n")
    node.becomes(OK, lambda: fetch(node.intruder, node.api.ipv4, 80, USERS, patience=GLANCE))
    node.until("nothing is wrong", lambda: node.ok() and not nacks(node))


def test_the_last_good_version_outlives_the_agent(node: LiveNode) -> None:
    node.write("api-access-control", API)
    node.until("it is refused", lambda: nacks(node))
    node.end_agent()
    node.start_agent("--envoy", node.folder / "hobbled-envoy", ready=False)
    node.until("it is refused again", lambda: node.status() and nacks(node))
    assert nacks(node)["default/api-access-control"]["enforced"] == "older"
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == OK
