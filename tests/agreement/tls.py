"""TLS at both ends of Envoy: the Secrets that random policies name, a client, and a server that is trusted by any name.

A Secret for terminatingTLS has a certificate of its own, by which a client tells who answered it. Those for
originatingTLS trust the server's authority. Keys are made anew in each run, and stand in no case.
"""

from __future__ import annotations

import ssl
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, cast

from lockgate.policies.interception import Greeting
from lockgate.tests.agreement.exchange import H1, H2
from lockgate.tests.agreement.vocabulary import NAMESPACES, SHOWN, TRUSTED
from lockgate.tests.e2e.tls_pods import Authority

SERVER = "server"  # who answered when it was the server itself
_NAMELESS = "nameless.example.com"


class _Named(ssl.SSLContext):
    """`server_name` is what the client called the server."""

    server_name = ""


@cache
def _authority(name: str) -> Authority:
    return Authority(name)


@cache
def _shown(namespace: str, name: str) -> tuple[bytes, bytes]:
    return _authority("shown").issue(f"{namespace}-{name}.example.com")


@cache
def secrets() -> tuple[dict[str, Any], ...]:
    """The documents."""
    found = []
    for namespace in NAMESPACES:
        for name in SHOWN:
            certificate, key = _shown(namespace, name)
            found.append(_secret(namespace, name, {"tls.crt": certificate, "tls.key": key}))
        for name in TRUSTED:
            found.append(_secret(namespace, name, {"ca.crt": _authority(SERVER).pem}))
    return tuple(found)


def _secret(namespace: str, name: str, entries: dict[str, bytes]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    data = {entry: value.decode() for entry, value in entries.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def who_answered(session: ssl.SSLObject) -> str:
    """namespace/name of the Secret whose certificate the client was shown, or SERVER."""
    shown = session.getpeercert(True) or b""
    for namespace in NAMESPACES:
        for name in SHOWN:
            if shown == ssl.PEM_cert_to_DER_cert(_shown(namespace, name)[0].decode()):
                return f"{namespace}/{name}"
    return SERVER


@cache
def client_context(offers: tuple[str, ...]) -> ssl.SSLContext:
    """Of a client to whom every certificate is as good, and who offers these protocols (ALPN)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if offers:
        context.set_alpn_protocols(offers)
    return context


def server_protocols(name: str) -> tuple[str, ...]:
    """What a server that is called by this name speaks, the dearest first. Some know HTTP/2."""
    return (H1,) if len(name) % 3 == 0 else (H2, H1)


@cache
def server_context(name: str = _NAMELESS) -> ssl.SSLContext:
    """Of a server that shows a certificate for the name it is called by."""
    context = _Named(ssl.PROTOCOL_TLS_SERVER)
    context.server_name = "" if name == _NAMELESS else name
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(b"".join(_authority(SERVER).issue(name)))
        context.load_cert_chain(file.name)
    context.set_alpn_protocols(server_protocols(context.server_name))
    context.sni_callback = _become
    return context


def _become(session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    if name:
        session.context = server_context(name)


def greeted_with(session: ssl.SSLObject | None) -> Greeting:
    """How the client of a server with `server_context` began; None is no TLS."""
    if session is None:
        return Greeting(False)
    return Greeting(True, cast(_Named, session.context).server_name)
