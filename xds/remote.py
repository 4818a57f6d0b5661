"""Nodes that come over TCP: mutual TLS, and who they are by their certificate."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio

from .certificates import Identity, node_of_names
from .errors import IdentityError, RemoteError


@dataclass(frozen=True, slots=True)
class Remote:
    """Where to listen (port 0: any that is free), as whom, and whose signature clients must have (PEM)."""

    address: str
    port: int
    identity: Identity
    authority: bytes

    def listen(self, server: grpc.aio.Server) -> int:
        """Add it to a server that has not started; returns the port. Raises RemoteError."""
        credentials = grpc.ssl_server_credentials(
            [(self.identity.key, self.identity.certificate)], self.authority, require_client_auth=True
        )
        host = f"[{self.address}]" if ":" in self.address else self.address
        try:
            port: int = server.add_secure_port(f"{host}:{self.port}", credentials)
        except (RuntimeError, ValueError) as error:
            raise RemoteError(self.address, self.port, str(error)) from error
        return port


def node_of(context: grpc.aio.ServicerContext[bytes, bytes]) -> str | None:
    """The node of the client's certificate; None for a client on the local socket. Raises IdentityError."""
    facts = context.auth_context()
    if facts.get("transport_security_type", [b""])[0] != b"ssl":
        return None
    names = [name.decode(errors="replace") for name in facts.get("x509_subject_alternative_name", ())]
    node = node_of_names(names)
    if node is None:
        raise IdentityError("the client's certificate names no node; it needs one URI lockgate://node/ID")
    return node


def require_same(certified: str | None, claimed: str) -> None:
    """A remote client is who its certificate says. Raises IdentityError."""
    if certified is not None and claimed != certified:
        raise IdentityError(f"the certificate is for node {certified}, but the client says it is {claimed or 'nobody'}")
