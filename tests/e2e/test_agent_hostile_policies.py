"""Policies by somebody who has one namespace and wants the node: the agent goes on, and what others write counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import DENIED, OK, LiveNode, fetch, live_node

USERS = "/api/v1/users"


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node() as made:
        yield made


def policy(path: str, host: str = "") -> str:
    """Of the backend, with this pattern."""
    return f"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: hostile}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  ingress:
  - toPorts:
    - ports: [{{port: "8080", protocol: TCP}}]
      rules: {{http: [{{path: '{path}', host: '{host}'}}]}}
"""


@pytest.mark.parametrize(
    ("path", "host"),
    [
        pytest.param("/" + "(" * 900 + "a" + ")" * 900, "", id="groups in groups"),
        pytest.param("/" + "(?:a|" * 900 + ")" * 900, "", id="branches in groups"),
        pytest.param("/", "(" * 900 + "x" + ")" * 900, id="groups of a host"),
        pytest.param("/" + "a?" * 4000, "", id="much that may be absent"),
        pytest.param("/.{1000}.{1000}.{1000}", "", id="long repetitions"),
    ],
)
def test_patterns(node: LiveNode, path: str, host: str) -> None:
    frontend, api = node.frontend, node.api
    node.write("hostile", policy(path, host))
    file = node.policies / "api-access-control.yaml"
    before = file.read_text()
    node.write("api-access-control", before.replace(USERS, "/changed"))
    node.becomes(DENIED, lambda: fetch(frontend, api.ips[0], 80, USERS))
    assert fetch(frontend, api.ips[0], 80, "/changed") == OK
    node.write("api-access-control", before)
    node.becomes(OK, lambda: fetch(frontend, api.ips[0], 80, USERS))
    node.until("all is in force", node.ok)


PAIRS = "'X-{0}: a', 'Y-{0}: b', 'Z-{0}: c'"
SHARED = ", ".join(f"'X-{number}: a'" for number in range(400))


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([f"headers: [{PAIRS.format(number)}]" for number in range(2000)], id="of many names"),
        pytest.param([f"headers: [{SHARED}, 'Y: {number}']" for number in range(6)], id="of many that are shared"),
        pytest.param(
            [f"host: 'a{n}.*', path: '/{n}[^x]', method: 'G{n}[^x]', headers: ['X-{n}: a']" for n in range(40)],
            id="behind patterns",
        ),
        pytest.param([f"headerMatches: [{{name: X-{n}, value: a, mismatch: LOG}}]" for n in range(400)], id="logged"),
        pytest.param([f"headerMatches: [{{name: X-{n}, value: a, mismatch: ADD}}]" for n in range(400)], id="added"),
    ],
)
def test_headers(node: LiveNode, rules: list[str]) -> None:
    frontend, api = node.frontend, node.api
    node.write("hostile", policy("/", "").replace("{path: '/', host: ''}", ", ".join(f"{{{each}}}" for each in rules)))
    file = node.policies / "api-access-control.yaml"
    before = file.read_text()
    node.write("api-access-control", before.replace(USERS, "/changed"))
    node.becomes(DENIED, lambda: fetch(frontend, api.ips[0], 80, USERS))
    node.write("api-access-control", before)
    node.becomes(OK, lambda: fetch(frontend, api.ips[0], 80, USERS))
    assert not [problem for problem in node.problems() if "refuses" in problem]
