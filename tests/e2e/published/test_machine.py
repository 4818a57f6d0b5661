"""The machine's own rules beside ours, and policies for the node itself."""

from __future__ import annotations

import pytest
from lockgate.agent.playground import Outside
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, Line
from lockgate.tests.e2e.published.ground import HTTP, NODE, PLAIN, ask, publish

EDGE = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress: [{fromEntities: [world], toPorts: [{ports: [{port: "%d", protocol: TCP}]}]}]
"""


@pytest.mark.parametrize("chain", ["raw", "input"])
def test_with_other_rules_on_the_machine(ground: Ground, chain: str) -> None:
    """Docker from 28 on drops what does not come over the bridge before it is translated; a host's own firewall lets in
    what comes over lo, and drops what it does not know."""
    engine = ground.engine
    container = publish(ground)
    bridge = engine.run(["ip", "-o", "route", "get", container.ip]).decode().split(" dev ")[1].split()[0]
    rules = {
        "raw": [["raw", "PREROUTING", "-d", f"{container.ip}/32", "!", "-i", bridge, "-j", "DROP"]],
        "input": [
            ["filter", "INPUT", "-i", "lo", "-j", "ACCEPT"],
            ["filter", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
            ["filter", "INPUT", "-j", "DROP"],
        ],
    }[chain]
    try:
        for table, *rule in rules:
            engine.run(["iptables", "-t", table, "-A", *rule])
        assert ask(ground, "/open") == OK
        assert ask(ground, "/shut") == DENIED
        assert ask(ground, "/any", PLAIN) == OK
    finally:
        for table, *rule in rules:
            engine.run(["iptables", "-t", table, "-D", *rule])


def test_what_the_machines_rules_forbid_stays_forbidden(ground: Ground, outside: Outside) -> None:
    publish(ground)
    rule = ["FORWARD", "-s", f"{outside.ips[0]}", "-j", "DROP"]
    ground.engine.run(["iptables", "-I", *rule])
    try:
        assert ask(ground, "/open") == DROPPED
    finally:
        ground.engine.run(["iptables", "-D", *rule])
    assert ask(ground, "/open") == OK


def test_where_a_policy_selects_the_node(ground: Ground, outside: Outside) -> None:
    """It is asked for the published port, the container's for its own."""
    node = ground.node
    publish(ground)
    node.end_agent()
    ground.start_agent(more="node_labels: {role: edge}\n")
    try:
        node.write("node", EDGE % HTTP)
        node.becomes(DROPPED, lambda: ask(ground, "/any", PLAIN, patience=GLANCE))
        assert [ask(ground, path) for path in ("/open", "/shut")] == [OK, DENIED]
        with Line(outside, NODE, HTTP) as line:
            assert [str(line.ask(path)) for path in ("/open", "/shut", "/open")] == [OK, DENIED, OK]
        node.write("node", EDGE % PLAIN)
        node.becomes(OK, lambda: ask(ground, "/any", PLAIN, patience=GLANCE))
        assert ask(ground, "/open", patience=GLANCE) == DROPPED
    finally:
        (node.policies / "node.yaml").unlink()
        node.end_agent()
        ground.start_agent()
