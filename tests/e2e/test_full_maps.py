"""Policies that the kernel's maps have no room for: refused as a whole, said so, and in force once there is room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.redirect import layout
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, LiveNode, fetch, live_node
from lockgate.tests.scarcity import pin_small

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


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        for codec, room in ROOM.items():
            pin_small(made.settings.pin_dir / "maps", codec, room)  # type: ignore[arg-type]
        made.start_agent()
        yield made


def ports() -> str:
    rules = ""
    for first in (1000, 2000):
        listed = ", ".join(f"{{port: '{port}', protocol: TCP}}" for port in range(first, first + 80, 2))
        rules += f"  - fromEndpoints: [{{matchLabels: {{app: frontend}}}}]\n    toPorts: [{{ports: [{listed}]}}]\n"
    return OUTSIDE + rules


def networks() -> str:
    return OUTSIDE + "".join(f"  - fromCIDR: [192.0.2.{number}/32]\n" for number in range(35))


@pytest.mark.parametrize(("text", "table"), [(ports(), "policy"), (networks(), "ipcache")])
def test_a_change_without_room(node: LiveNode, text: str, table: str) -> None:
    path = node.write("outside", text)
    told = f"entries of the BPF map {table} "
    node.until("it is told", lambda: any(told in each and "nothing is changed" in each for each in node.problems()))
    node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
    node.until("it is told again", lambda: any(told in each for each in node.problems()))
    assert fetch(node.frontend, node.backend.ipv4, 8080) == OK, "the change comes as a whole"
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    path.unlink()
    node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.write("allow-frontend-to-backend", BACKEND)
    node.becomes(OK, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.until("all is well", node.ok)
