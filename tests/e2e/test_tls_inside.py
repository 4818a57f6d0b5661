"""Requests inside TLS that Envoy takes up, from clients that say one thing outside and another inside."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.field import listen
from lockgate.tests.e2e.live_node import OK, PATIENCE, LiveNode, live_node
from lockgate.tests.e2e.test_agent_tls_contexts import ORIGINATING, TERMINATING, opened, policy, secrets
from lockgate.tests.e2e.test_http2_tricks import PREFACE, SETTINGS, asks, frame
from lockgate.tests.e2e.tls_pods import Authority, TlsClient, TlsWeb

PORT = 443
API, CDN, EVIL = "api.example.com", "eu.cdn.example.com", "other.example.com"


def rules(name: str, server: str, path: str, host: str = "") -> str:
    http = f'{{path: "/{path}.*"{f", host: {host}" if host else ""}}}'
    return policy(name, PORT, f"serverNames: [{server}]", TERMINATING, ORIGINATING, f"rules: {{http: [{http}]}}")


@pytest.fixture(name="inside", scope="module")
def authority_of_the_policies() -> Authority:
    return Authority("inside")


@pytest.fixture(name="node", scope="module")
def node_with_a_tls_server(inside: Authority) -> Iterator[LiveNode]:
    outside = Authority("outside")
    with live_node(start=False) as node:
        node.write("secrets", secrets(inside, outside))
        node.webs["tls"] = TlsWeb(node.backend, PORT, outside.issue(API, CDN, EVIL), node.folder)
        api, cdn, hosted = rules("api", API, "api"), rules("cdn", CDN, "cdn"), rules("hosted", API, "hosted", API)
        node.write("tls", "---".join([opened(PORT), api, cdn, hosted]))
        node.start_agent()
        client = TlsClient(inside)
        for name, path in ((API, "/api"), (CDN, "/cdn")):
            assert client.fetch(node.frontend, node.backend.ipv4, PORT, name, path) == OK
        yield node


@pytest.fixture(name="server")
def the_server(node: LiveNode) -> TlsWeb:
    """Which has not seen anything yet."""
    server = node.webs["tls"]
    assert isinstance(server, TlsWeb)
    server.seen.clear()
    server.names.clear()
    return server


@pytest.fixture(name="context")
def what_a_client_trusts(inside: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=inside.pem.decode())


def dial(node: LiveNode, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    raw = netns.run_in(
        node.frontend.path, lambda: socket.create_connection((str(node.backend.ipv4), PORT), timeout=PATIENCE)
    )
    return context.wrap_socket(raw, server_hostname=name, session=session)


def get(path: str, host: str = API) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def fields(path: str, host: str) -> list[tuple[bytes, bytes]]:
    return [(b":method", b"GET"), (b":path", path.encode()), (b":scheme", b"https"), (b":authority", host.encode())]


def say(connection: ssl.SSLSocket, data: bytes) -> bytes:
    with suppress(OSError):
        connection.sendall(data)
    return listen(connection, 0.3)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_session_of_another_name(
    node: LiveNode, server: TlsWeb, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    """The greeting's name counts, whatever the session was made for."""
    context.maximum_version = version
    with dial(node, context, CDN) as first:
        assert say(first, get("/cdn", CDN)).startswith(b"HTTP/1.1 200")
        session = first.session
    assert session is not None
    server.seen.clear()
    with dial(node, context, API, session) as resumed:
        assert say(resumed, get("/cdn", CDN)).startswith(b"HTTP/1.1 403")
        assert say(resumed, get("/api", API)).startswith(b"HTTP/1.1 200")
    with pytest.raises(OSError):
        dial(node, context, EVIL, session)
    assert {each.path for each in server.seen} == {"/api"}
    assert EVIL not in server.names


def test_early_data_is_not_taken(node: LiveNode, server: TlsWeb, inside: Authority, tmp_path: Path) -> None:
    """It could be sent again by anybody who has heard it."""
    trusted, session, early = tmp_path / "ca.pem", tmp_path / "session", tmp_path / "early"
    trusted.write_bytes(inside.pem)
    early.write_bytes(get("/api/early"))
    command = ["openssl", "s_client", "-connect", f"{node.backend.ipv4}:{PORT}", "-servername", API, "-ign_eof"]
    command += ["-tls1_3", "-CAfile", str(trusted)]

    def talk(*more: str, said: bytes) -> str:
        asked = netns.run_in(
            node.frontend.path,
            lambda: subprocess.run([*command, *more], input=said, capture_output=True, timeout=PATIENCE, check=False),
        )
        return asked.stdout.decode()

    last = b"GET /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    told = talk("-sess_out", str(session), said=last)
    assert "HTTP/1.1 200" in told and "Max Early Data: 0" in told
    again = talk("-sess_in", str(session), "-early_data", str(early), said=last)
    assert "HTTP/1.1 200" in again and "Early data was not sent" in again
    assert {each.path for each in server.seen} == {"/api"}


@pytest.mark.parametrize("named", ["h2", "http/1.1", "http/1.0", ""])
@pytest.mark.parametrize("path", ["/api", "/closed"])
def test_another_protocol_than_was_agreed_upon(
    node: LiveNode, server: TlsWeb, context: ssl.SSLContext, named: str, path: str
) -> None:
    if named:
        context.set_alpn_protocols([named])
    http2 = PREFACE + frame(SETTINGS, 0, 0, b"") + asks(fields(path, API))
    for said in (get(path), http2):
        with dial(node, context, API) as connection:
            say(connection, said)
    assert {each.path for each in server.seen} <= {"/api"}
    assert path == "/closed" or server.seen


def test_a_host_that_is_not_the_greetings_name(node: LiveNode, server: TlsWeb, context: ssl.SSLContext) -> None:
    """The server is called by the greeting's name; which host may be asked for, rules say."""
    with dial(node, context, API) as connection:
        assert say(connection, get("/api", EVIL)).startswith(b"HTTP/1.1 200")
        assert say(connection, get("/hosted", API)).startswith(b"HTTP/1.1 200")
        assert say(connection, get("/hosted", EVIL)).startswith(b"HTTP/1.1 403")
        assert say(connection, get("/cdn", CDN)).startswith(b"HTTP/1.1 403")
    assert {*server.names} <= {API}


def test_names_that_share_a_certificate_on_one_connection(
    node: LiveNode, server: TlsWeb, context: ssl.SSLContext
) -> None:
    """As browsers do with HTTP/2 (RFC 9113, 9.1.1): what the rules about the one name allow is not allowed here."""
    context.set_alpn_protocols(["h2"])
    with dial(node, context, API) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        told = asks(fields("/cdn", CDN)) + asks(fields("/api", API), stream=3) + asks(fields("/hosted", CDN), stream=5)
        say(connection, PREFACE + frame(SETTINGS, 0, 0, b"") + told)
    assert [each.path for each in server.seen] == ["/api"]
