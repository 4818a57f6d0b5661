"""Header matches on a live node: secrets from files that change, and requests that are changed on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import DENIED, OK, Line, LiveNode

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: with-token, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: frontend}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - path: /demanded
          headerMatches: [{name: X-Token, secret: {name: token}}]
        - path: /given
          headerMatches:
          - {name: X-Token, secret: {name: token}, mismatch: REPLACE}
          - {name: X-Seen, value: lockgate, mismatch: ADD}
          - {name: X-Debug, value: "no", mismatch: DELETE}
          - {name: X-Wanted, value: "yes", mismatch: LOG}
"""
FIRST, SECOND = "hush-4711", "hush-0815"


def secret(value: str) -> str:
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: token}}\nstringData: {{token: {value}}}\n"


@pytest.fixture
def node(shared_node: LiveNode) -> Iterator[LiveNode]:
    shared_node.webs["api-server"].seen.clear()
    made = [shared_node.write("with-token", POLICY), shared_node.write("token", secret(FIRST))]
    with Line(shared_node.frontend, shared_node.api.ipv4, 80) as line:
        shared_node.becomes(OK, lambda: line.ask("/demanded", headers={"X-Token": FIRST}))
    yield shared_node
    for path in made:
        path.unlink(missing_ok=True)
    with Line(shared_node.frontend, shared_node.api.ipv4, 80) as line:
        shared_node.becomes(DENIED, lambda: line.ask("/given"))
    shared_node.until("nothing is wrong any more", shared_node.ok)


def test_a_secret_counts_changes_breaks_and_goes(node: LiveNode) -> None:
    with Line(node.frontend, node.api.ipv4, 80) as line:

        def ask(token: str) -> str:
            return str(line.ask("/demanded", headers={"X-Token": token}))

        assert (ask(FIRST), ask(SECOND), str(line.ask("/demanded"))) == (OK, DENIED, DENIED)
        path = node.write("token", secret(SECOND))
        node.becomes(OK, lambda: ask(SECOND))
        assert ask(FIRST) == DENIED

        node.write("token", secret(f"[{FIRST}]"))
        stays = "secret default/token stays in force in its last good version"
        node.until("it is reported", lambda: stays in node.problems())
        assert (ask(FIRST), ask(SECOND)) == (DENIED, OK)

        path.unlink()
        node.becomes(DENIED, lambda: ask(SECOND))
        told = "secret default/token is missing: the rule that needs it matches no request"
        assert any(told in each for each in node.problems())
        assert told in node.lockgate("policy", "get", "with-token").out
        assert told in node.log
        assert node.lockgate("status").status == 1


def test_what_a_secret_says_is_shown_nowhere(node: LiveNode) -> None:
    shown = [
        node.lockgate(*command, "-o", "json").out
        for command in (
            ("envoy", "config"),
            ("xds", "resources"),
            ("policy", "list"),
            ("policy", "get", "with-token"),
            ("status",),
        )
    ]
    assert all(shown)
    assert FIRST not in "".join([*shown, node.log, (node.run_dir / "envoy.log").read_text(errors="replace")])
    database = node.folder / "state" / "accepted.db"
    assert database.stat().st_mode & 0o077 == 0


def test_servers_get_what_the_policy_makes_of_a_request(node: LiveNode) -> None:
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask("/given", headers={"X-Token": "forged", "X-Seen": "me", "X-Debug": "on"})) == OK
    headers = node.webs["api-server"].seen[-1].headers
    assert (headers["x-token"], headers["x-seen"]) == (FIRST, "me,lockgate")
    assert "x-debug" not in headers
    access_log = node.run_dir / "requests.jsonl"
    node.until("it is logged", lambda: "x-wanted" in access_log.read_text())
    assert FIRST not in access_log.read_text()
