"""Nodes that come over TCP: mutual TLS, and who they are by their certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
import grpc.aio

from ..errors import IdentityError, RemoteError
from .certificate_files import Credentials
from .certificates import node_of_names

_OPTIONS = (
    ("grpc.max_receive_message_length", 4 << 20),  # a remote node asks for a handful of resources
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
_CONNECTIONS_PER_NODE = 8
_STRANGERS = 64  # connections that have not shown a certificate yet


@dataclass(frozen=True, slots=True)
class Remote:
    """Where to listen (port 0: any that is free), as whom, and whose signature clients must have.

    `nodes` are those that are served; None is any with a certificate. `renewed` is asked before every handshake, from
    any thread, for other credentials; None is no change.
    """

    address: str
    port: int
    credentials: Credentials
    nodes: frozenset[str] | None = None
    renewed: Callable[[], Credentials | None] = lambda: None

    def server(self, handlers: Iterable[grpc.GenericRpcHandler]) -> tuple[grpc.aio.Server, int]:
        """A server that has not started, and the port it is bound to. Raises RemoteError."""
        most = _STRANGERS + _CONNECTIONS_PER_NODE * len(self.nodes or range(128))
        server = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_allowed_incoming_connections", most)))
        server.add_generic_rpc_handlers(tuple(handlers))
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self.credentials), self._fetch, require_client_authentication=True
        )
        host = f"[{self.address}]" if ":" in self.address else self.address
        try:
            port: int = server.add_secure_port(f"{host}:{self.port}", credentials)
        except (RuntimeError, ValueError) as error:
            raise RemoteError(self.address, self.port, str(error)) from error
        return server, port

    def require_served(self, node: str) -> None:
        """Raises IdentityError for a node that is not listed."""
        if self.nodes is not None and node not in self.nodes:
            raise IdentityError(
                f"node {node} is not served here; list it under remote: nodes: in the agent's config file"
            )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        found = self.renewed()
        return _configuration(found) if found is not None else None


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    identity = credentials.identity
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], credentials.authority)


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
