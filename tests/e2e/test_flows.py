"""`lockgate flows` on a live node: who was refused what, as it happens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, LiveNode, fetch

RULE = "default/api-access-control:spec.ingress[0].toPorts[0]"


@contextmanager
def following(node: LiveNode, *options: str) -> Iterator[list[dict[str, Any]]]:
    """`flows -f`: the events so far, in a list that grows."""
    command = [sys.executable, "-P", "-m", "lockgate", "flows", "-f", "-n", "0", "-o", "json", *options]
    process = subprocess.Popen([*command, "--run-dir", str(node.run_dir)], stdout=subprocess.PIPE, text=True, bufsize=1)
    events: list[dict[str, Any]] = []
    assert process.stdout is not None
    stream = process.stdout

    def read() -> None:
        for line in stream:
            events.append(json.loads(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield events
    finally:
        process.terminate()
        process.wait(10)
        reader.join(10)
        stream.close()


def test_a_denied_request_is_told_with_names_and_rules(shared_node: LiveNode) -> None:
    node = shared_node
    path = "/api/v1/who-was-that"
    assert fetch(node.frontend, node.api.ipv6, 80, path) == DENIED
    told = node.until(
        "it is in the log", lambda: node.lockgate("flows", "--http-path", "who-was-that$", "-o", "json").out
    )
    shown = json.loads(told.splitlines()[-1])
    assert (shown["verdict"], shown["http"]["method"], shown["http"]["code"]) == ("denied", "GET", 403)
    assert (shown["source"]["endpoint"], shown["source"]["ip"]) == ("default/frontend", str(node.frontend.ipv6))
    assert (shown["destination"]["endpoint"], shown["destination"]["port"]) == ("default/api-server", 80)
    assert shown["considered"] == [RULE]
    line = node.lockgate("flows", "--from", "frontend", "--to", "api-server", "--policy", "api-access-control").out
    assert f"GET {path}  403  no request rule of {RULE} matches" in line
    assert node.lockgate("flows", "--from", "intruder", "--http-path", "who-was-that").out == ""
    wrong = node.lockgate("flows", "--verdict", "maybe")
    assert (wrong.status, "write denied, logged, dropped" in wrong.err) == (2, True)


def test_following_shows_denials_and_drops_as_they_happen(shared_node: LiveNode) -> None:
    node = shared_node
    with following(node) as events, following(node, "--verdict", "denied", "--http-path", "^/this") as some:

        def seen(verdict: str) -> bool:
            assert fetch(node.frontend, node.api.ipv4, 80, "/this-is-denied") == DENIED
            assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
            return any(each["verdict"] == verdict for each in list(events))

        node.until("the denial is shown", lambda: seen("denied"))
        node.until("the drop is shown", lambda: seen("dropped"))
        node.until("the other one shows it too", lambda: seen("denied") and some)
        assert fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users") == OK
    assert {each["verdict"] for each in some} == {"denied"}
    drop = next(each for each in events if each["verdict"] == "dropped")
    assert (drop["source"]["endpoint"], drop["destination"]["endpoint"]) == ("default/intruder", "default/backend")
    assert (drop["destination"]["port"], drop["protocol"]) == (8080, "TCP")
    assert (drop["direction"], drop["reason"]) == ("egress", "policy")
    assert "/api/v1/users" not in {each.get("http", {}).get("path") for each in events}, "what is allowed is in no log"


def test_without_an_agent_there_is_a_sentence(shared_node: LiveNode) -> None:
    ended = shared_node.node.run([sys.executable, "-P", "-m", "lockgate", "flows", "--run-dir", "/nonexistent/run"])
    assert ended.returncode == 3
    assert "/nonexistent/run does not exist" in ended.stderr


def test_dropped_packets_are_remembered_without_a_follower(shared_node: LiveNode) -> None:
    node = shared_node
    assert fetch(node.intruder, node.backend.ipv6, 8080, patience=GLANCE) == DROPPED
    shown = node.lockgate("flows", "--verdict", "dropped", "--from", "intruder", "--to", str(node.backend.ipv6)).out
    last = shown.splitlines()[-1]
    why = "no ingress rule of default/allow-frontend-to-backend allows it"
    assert "default/intruder:" in last and f"-> default/backend:8080  TCP  egress, policy: {why}" in last
    assert last in node.lockgate("flows", "--policy", "allow-frontend-to-backend").out
    asked = node.lockgate("flows", "--verdict", "dropped", "--from", "frontend", "--to", "frontend")
    assert (asked.status, asked.out, asked.err) == (0, "", "")


def test_an_end_that_nobody_is_called(shared_node: LiveNode) -> None:
    asked = shared_node.lockgate("flows", "--from", "frontent")
    assert (asked.status, asked.out) == (0, "")
    assert asked.err.startswith("nobody here is called 'frontent': write namespace/name or name")
