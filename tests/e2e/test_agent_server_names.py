"""serverNames on a live node: what a client greets a server with decides, before the server hears of it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import CLOSED, DROPPED, GLANCE, OK, PATIENCE, Line, LiveNode, live_node
from lockgate.tests.e2e.tls_pods import UNTRUSTED, Authority, TlsClient, TlsWeb

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names}
spec:
  endpointSelector: {matchLabels: {app: %(who)s}}
  %(direction)s:
  - toPorts:
    - ports: [{port: "443", protocol: TCP}]
      serverNames: [%(names)s]
"""
NAMES = "updates.example.com, '*.cdn.example.com', '**.deep.example.com'"
HIDDEN = (
    "updates.example.com",
    "eu.cdn.example.com",
    "a.b.deep.example.com",
    "other.example.com",
    "a.b.cdn.example.com",
)


@pytest.fixture(name="authority", scope="module")
def an_authority() -> Authority:
    return Authority("test")


@pytest.fixture(name="node", scope="module")
def node_with_a_tls_server(authority: Authority) -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        node.webs["tls"] = TlsWeb(node.backend, 443, authority.issue(*HIDDEN, "plain.example.com"), node.folder)
        node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": NAMES})
        node.start_agent()
        yield node


@pytest.fixture(name="server")
def the_tls_server(node: LiveNode) -> TlsWeb:
    server = node.webs["tls"]
    assert isinstance(server, TlsWeb)
    return server


@pytest.fixture(name="client")
def a_client_that_trusts(authority: Authority) -> TlsClient:
    return TlsClient(authority)


@pytest.fixture(name="ingress", scope="module")
def backend_lets_443_in(node: LiveNode) -> None:
    """The article's policy closes the backend's other ports."""
    text = POLICY % {"who": "backend", "direction": "ingress", "names": "x"}
    node.write("backend-443", text.replace("names}", "backend-443}").replace("      serverNames: [x]\n", ""))
    node.until("it is in force", node.ok)
    node.until("the rule is there", lambda: "default/backend-443" in str(node.lockgate("policy", "list")))


@pytest.mark.usefixtures("ingress")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("updates.example.com", OK),
        ("UPDATES.example.com", OK),
        ("eu.cdn.example.com", OK),
        ("a.b.deep.example.com", OK),
        ("a.b.cdn.example.com", CLOSED),
        ("other.example.com", CLOSED),
        (None, CLOSED),
    ],
)
def test_the_name_decides(
    node: LiveNode, server: TlsWeb, client: TlsClient, name: str | None, expected: str, version: int
) -> None:
    ip = node.backend.ipv4 if version == 4 else node.backend.ipv6
    own = node.frontend.ipv4 if version == 4 else node.frontend.ipv6
    before = server.accepted
    node.becomes(expected, lambda: client.fetch(node.frontend, ip, 443, name))
    if expected == OK:
        assert server.names[-1] == (name or "").lower() or server.names[-1] == name
        assert server.seen[-1].client == str(own)
    else:
        assert server.accepted == before


@pytest.mark.usefixtures("ingress")
def test_what_is_not_tls_is_closed(node: LiveNode, server: TlsWeb) -> None:
    before = server.accepted
    address = (str(node.backend.ipv4), 443)
    with netns.run_in(node.frontend.path, partial(socket.create_connection, address, timeout=PATIENCE)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: updates.example.com\r\n\r\n")
        assert connection.recv(100) == b""
    assert server.accepted == before


@pytest.mark.usefixtures("ingress")
def test_others_and_other_ports_are_none_of_its_business(node: LiveNode, client: TlsClient) -> None:
    assert client.fetch(node.intruder, node.backend.ipv4, 443, "other.example.com") == OK
    assert client.fetch(node.frontend, node.backend.ipv4, 8443, "updates.example.com", patience=GLANCE) == DROPPED


@pytest.mark.usefixtures("ingress")
def test_a_denial_is_logged_with_the_name_that_was_asked_for(node: LiveNode, client: TlsClient) -> None:
    assert client.fetch(node.frontend, node.backend.ipv4, 443, "other.example.com") == CLOSED

    def logged() -> list[dict[str, str]]:
        lines = (node.run_dir / "requests.jsonl").read_text().splitlines()
        denied = [line for line in map(json.loads, lines) if line["host"] == "other.example.com"]
        return [line for line in denied if line["source"].startswith(f"{node.frontend.ipv4}:")]

    line = node.until("the denial is logged", logged)[-1]
    assert line["destination"] == f"{node.backend.ipv4}:443"
    identity = {each["endpoint"]: each["identity"] for each in node.lockgate("endpoint", "list", "-o", "json").data}
    assert f"identity:{identity['default/frontend']}:egress:no-rule-matched" in line["details"]


def is_over(line: Line) -> bool:
    try:
        return str(line.ask("/")) != OK
    except (OSError, http.client.HTTPException):
        return True


@pytest.mark.usefixtures("ingress")
def test_a_change_ends_what_it_no_longer_lets_in(node: LiveNode, client: TlsClient) -> None:
    address = (node.backend.ipv4, 443)
    with ExitStack() as stack:
        names = ("updates.example.com", "eu.cdn.example.com")
        ended, kept = (stack.enter_context(client.line(node.frontend, *address, name)) for name in names)
        assert [str(line.ask("/")) for line in (ended, kept)] == [OK, OK]
        node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": "'*.cdn.example.com'"})
        node.until("the connection ends", partial(is_over, ended))
        assert str(kept.ask("/")) == OK
    node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": NAMES})
    node.becomes(OK, lambda: client.fetch(node.frontend, *address, "updates.example.com"))


@pytest.mark.usefixtures("ingress")
def test_five_thousand_names(node: LiveNode, client: TlsClient) -> None:
    """Exact ones, and patterns of as many domains, in one rule."""
    names = [f"n{number}.example.net" for number in range(2500)]
    names += [f"'*.d{number}.example.net'" for number in range(2497)]
    node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": ", ".join([*names, NAMES])})

    def ask(name: str) -> str:
        return client.fetch(node.frontend, node.backend.ipv4, 443, name)

    node.becomes(UNTRUSTED, partial(ask, "n2499.example.net"))  # the server's certificate is not for it
    for name in ("n0.example.net", "x.d0.example.net", "x.d2496.example.net"):
        assert ask(name) == UNTRUSTED
    for name in ("updates.example.com", "eu.cdn.example.com", "a.b.deep.example.com"):
        assert ask(name) == OK
    for name in ("other.example.com", "n2500.example.net", "y.x.d7.example.net", "d7.example.net"):
        assert ask(name) == CLOSED
    shown = str(node.lockgate("envoy", "rbac", "default/frontend", "-o", "json").data)
    assert "n0.example.net" in shown and "and 2491 more" in shown
    node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": NAMES})
    node.becomes(CLOSED, partial(ask, "n0.example.net"))


@pytest.mark.usefixtures("ingress")
def test_a_change_counts_from_the_next_connection_on(node: LiveNode, client: TlsClient) -> None:
    def ask(name: str) -> str:
        return client.fetch(node.frontend, node.backend.ipv6, 443, name)

    node.becomes(CLOSED, partial(ask, "other.example.com"))
    node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": "other.example.com"})
    node.becomes(OK, partial(ask, "other.example.com"))
    assert ask("updates.example.com") == CLOSED
    # A plain rule opens the port whole, also for what is not TLS.
    text = POLICY % {"who": "frontend", "direction": "egress", "names": "x"}
    node.write("whole", text.replace("names}", "whole}").replace("      serverNames: [x]\n", ""))
    node.becomes(OK, partial(ask, "updates.example.com"))
    (node.policies / "whole.yaml").unlink()
    node.becomes(CLOSED, partial(ask, "updates.example.com"))
    node.write("names", POLICY % {"who": "frontend", "direction": "egress", "names": NAMES})
    node.becomes(OK, partial(ask, "updates.example.com"))
    # The server's side counts as well.
    node.write(
        "server",
        (POLICY % {"who": "backend", "direction": "ingress", "names": "eu.cdn.example.com"}).replace(
            "names}", "server}"
        ),
    )
    (node.policies / "backend-443.yaml").unlink()
    node.becomes(CLOSED, partial(ask, "updates.example.com"))
    assert ask("eu.cdn.example.com") == OK
