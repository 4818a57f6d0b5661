"""Greetings by which a client might call another server than the one that it was let in for.

The server is OpenSSL's, and notes each name that it is called by. A trick has failed when it hears one that the policy
does not allow.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.field import listen
from lockgate.tests.e2e.live_node import OK, PATIENCE, LiveNode, live_node
from lockgate.tests.e2e.tls_greeting import (
    ALERT,
    ALPN,
    CHANGE_CIPHER_SPEC,
    DATA,
    ENCRYPTED_HELLO,
    HANDSHAKE,
    extension,
    greeting,
    names,
    record,
    vector,
)
from lockgate.tests.e2e.tls_pods import Authority, TlsClient, TlsWeb

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toPorts:
    - ports: [{port: "443", protocol: TCP}]
      serverNames: [updates.example.com, "*.cdn.example.com"]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend-443}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - toPorts:
    - ports: [{port: "443", protocol: TCP}]
"""
GOOD, EVIL = b"updates.example.com", b"other.example.com"
QUIET = 0.3  # seconds without a byte from the server, which is as near


@pytest.fixture(name="authority", scope="module")
def an_authority() -> Authority:
    return Authority("test")


@pytest.fixture(name="node", scope="module")
def node_with_a_tls_server(authority: Authority) -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        hosts = authority.issue(GOOD.decode(), EVIL.decode(), "eu.cdn.example.com")
        node.webs["tls"] = TlsWeb(node.backend, 443, hosts, node.folder, curve="secp384r1")
        node.write("names", POLICY)
        node.start_agent()
        client = TlsClient(authority)
        node.becomes(OK, lambda: client.fetch(node.frontend, node.backend.ipv4, 443, GOOD.decode()))
        yield node


@pytest.fixture(name="server")
def the_server(node: LiveNode) -> TlsWeb:
    """Which has not been called by any name yet."""
    server = node.webs["tls"]
    assert isinstance(server, TlsWeb)
    server.names.clear()
    return server


@pytest.fixture(name="client")
def a_client_that_trusts(authority: Authority) -> TlsClient:
    return TlsClient(authority)


def dial(node: LiveNode) -> socket.socket:
    return netns.run_in(
        node.frontend.path, lambda: socket.create_connection((str(node.backend.ipv4), 443), timeout=PATIENCE)
    )


def say(node: LiveNode, *flights: bytes) -> list[bytes]:
    """Each once the server has answered the one before; the answers."""
    with dial(node) as connection:
        answers = []
        for flight in flights:
            with suppress(OSError):
                connection.sendall(flight)
            answers.append(listen(connection, QUIET))
        return answers


def hello(*extensions: bytes, share: bool = True) -> bytes:
    """In one record."""
    return record(HANDSHAKE, greeting(*extensions, share=share))


def in_records(size: int) -> bytes:
    message = greeting(names(EVIL), share=True)
    return b"".join(record(HANDSHAKE, message[at : at + size]) for at in range(0, len(message), size))


OLDEST = b"\x01\x03\x03\0\x03\0\0\0\x10\0\0\x35" + bytes(16)  # a ClientHello of SSL 2, which cannot name anybody
FIRST = {
    "another name": hello(names(EVIL)),
    "no name": hello(),
    "an empty list": hello(names()),
    "an empty name": hello(names(b"")),
    "a dot behind it": hello(names(GOOD + b".")),
    "a nul behind it": hello(names(GOOD + b"\0")),
    "a nul and another name": hello(names(EVIL + b"\0." + GOOD)),
    "a nul in a pattern's place": hello(names(EVIL + b"\0.cdn.example.com")),
    "a dot in a pattern's place": hello(names(EVIL + b".cdn.example.com")),
    "a blank": hello(names(b" " + GOOD)),
    "too long": hello(names(b"x" * 300 + b".cdn.example.com")),
    "very long": hello(names(b"x" * 60000 + b".cdn.example.com")),
    "bytes of no alphabet": hello(names(b"\xff\xfe.cdn.example.com")),
    "an address": hello(names(b"10.0.0.1")),
    "letters that are folded": hello(names("upd\u0430tes.example.com".encode())),
    "a star": hello(names(b"*.cdn.example.com")),
    "two names in the list, the good first": hello(names(GOOD, EVIL)),
    "two names in the list, the good last": hello(names(EVIL, GOOD)),
    "two lists, the good first": hello(names(GOOD), names(EVIL)),
    "two lists, the good last": hello(names(EVIL), names(GOOD)),
    "a name of another kind": hello(names(GOOD, kind=1)),
    "something behind the list": hello(extension(0, vector(2, b"\0" + vector(2, GOOD)) + names(EVIL))),
    "the good one as a protocol": hello(names(EVIL), extension(ALPN, vector(2, vector(1, GOOD)))),
    "an encrypted greeting behind it": hello(names(EVIL), extension(ENCRYPTED_HELLO, b"\0\0\1\0\1\7\0\0\0\4abcd")),
    "in records of a byte": in_records(1),
    "in records of a hundred bytes": in_records(100),
    "behind an empty record": record(HANDSHAKE, b"") + hello(names(EVIL)),
    "behind a change of ciphers": record(CHANGE_CIPHER_SPEC, b"\1") + hello(names(EVIL)),
    "behind an alert": record(ALERT, b"\1\0") + hello(names(EVIL)),
    "behind data": record(DATA, b"x") + hello(names(EVIL)),
    "ssl 2": b"\x80" + vector(1, OLDEST),
    "two at once": hello(names(GOOD), share=False) + hello(names(EVIL)),
    "two in one record": record(HANDSHAKE, greeting(names(GOOD)) + greeting(names(EVIL), share=True)),
    "without end": record(HANDSHAKE, b"\x01\xff\xff\xff" + greeting(names(EVIL))[4:]),
}


@pytest.mark.parametrize("trick", FIRST)
def test_a_greeting(node: LiveNode, server: TlsWeb, trick: str) -> None:
    say(node, FIRST[trick])
    assert {*server.names} <= {GOOD.decode()}


def test_a_greeting_that_comes_byte_by_byte(node: LiveNode, server: TlsWeb) -> None:
    with dial(node) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello(names(GOOD)):
            connection.sendall(bytes([byte]))
        assert listen(connection, QUIET)
    assert server.names == [GOOD.decode()]


SECOND = {
    "another name": hello(names(EVIL)),
    "behind a change of ciphers": record(CHANGE_CIPHER_SPEC, b"\1") + hello(names(EVIL)),
    "behind data that is early": record(DATA, b"x" * 40) + hello(names(EVIL)),
    "in records of a byte": in_records(1),
    "in records of fifty bytes": record(CHANGE_CIPHER_SPEC, b"\1") + in_records(50),
    "no name": hello(),
    "two names": hello(names(GOOD, EVIL)),
    "two lists": hello(names(GOOD), names(EVIL)),
    "another one that may be called too": hello(names(b"eu.cdn.example.com")),
}


@pytest.mark.parametrize("trick", SECOND)
def test_the_greeting_that_a_server_asks_for(node: LiveNode, server: TlsWeb, trick: str) -> None:
    asked, answered = say(node, hello(names(GOOD), share=False), SECOND[trick])
    assert asked, "the server asks for a key"
    assert server.names == [GOOD.decode()]
    assert answered == b""


def test_a_second_greeting_that_is_not_taken_is_told(node: LiveNode) -> None:
    with dial(node) as connection:
        port = connection.getsockname()[1]
        connection.sendall(hello(names(GOOD), share=False))
        assert listen(connection, QUIET)
        connection.sendall(hello(names(EVIL)))
        assert listen(connection, QUIET) == b""

    def told() -> list[dict[str, Any]]:
        lines = node.lockgate("flows", "-o", "json").out.splitlines()
        return [line for line in map(json.loads, lines) if line["source"].get("port") == port]

    event = node.until("the denial is told", told)[-1]
    assert event["verdict"] == "denied" and event["why"].startswith("the client greeted the server again")
    assert node.stat("lockgate_greetings_ended$") > 0


def test_the_same_name_again(node: LiveNode, server: TlsWeb, client: TlsClient) -> None:
    """By hand, and as OpenSSL does: it has no key for the server's curve in its first greeting."""
    asked, answered = say(
        node,
        hello(names(GOOD), share=False),
        record(CHANGE_CIPHER_SPEC, b"\1") + hello(names(GOOD)),
    )
    assert asked and len(answered) > len(asked)
    assert server.names == [GOOD.decode()] * 2
    server.names.clear()
    assert client.fetch(node.frontend, node.backend.ipv4, 443, GOOD.decode()) == OK
    assert server.names == [GOOD.decode()] * 2


def test_a_greeting_inside_the_encryption(node: LiveNode, server: TlsWeb) -> None:
    """TLS 1.2: the server would take it, with any name."""
    command = ["openssl", "s_client", "-tls1_2", "-servername", GOOD.decode()]
    command += ["-connect", f"{node.backend.ipv4}:443", "-curves", "P-384:P-256"]
    asked = netns.run_in(
        node.frontend.path,
        lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL),
    )
    with asked:
        assert asked.stdin is not None and asked.stdout is not None
        try:
            for line in asked.stdout:
                if b"Verify return code" in line:
                    break
            asked.stdin.write(b"R\n")
            asked.stdin.flush()
            asked.wait(PATIENCE)  # its connection ends, and it with it
        finally:
            asked.kill()
    assert server.names == [GOOD.decode()]
