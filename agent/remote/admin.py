"""The way to the admin interface of a remote Envoy: its own listener (envoy/config/remote_admin.py), by mutual TLS.

The agent shows the certificate that it serves remote nodes with, and talks to nobody but the node that it means, by the
same rule as for those that come to it (xds/serve/certificates.py): the URI among the names of the certificate.
"""

from __future__ import annotations

import ssl
from typing import Any

from ...envoy.inspection.admin import TlsDoor
from ...xds import CertificateFiles, node_of_names
from ...xds.serve.certificate_files import Credentials
from ..settings import RemoteSettings


def remote_doors(settings: RemoteSettings | None, files: CertificateFiles | None) -> dict[str, TlsDoor]:
    """To the nodes that the settings have an address for. `files` are those of the settings, already read."""
    if settings is None or files is None:
        return {}
    return {
        node: TlsDoor(host, port, _Contexts(node, settings, files).now) for node, (host, port) in settings.admin.items()
    }


class _Contexts:
    """With what is in the files."""

    def __init__(self, node: str, settings: RemoteSettings, files: CertificateFiles) -> None:
        self._node = node
        self._settings = settings
        self._files = files
        self._made: tuple[Credentials, ssl.SSLContext] | None = None

    def now(self) -> ssl.SSLContext:
        """The one before while the files are no good. May raise OSError."""
        self._files.renewed()
        credentials = self._files.used
        if self._made is not None and (self._made[0] is credentials or self._files.problem):
            return self._made[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # a node is who its URI says, wherever it is
        context.sslobject_class = _talking_to(self._node)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=credentials.authority.decode())
        context.load_cert_chain(self._settings.certificate, self._settings.key)
        self._made = (credentials, context)
        return context


def _talking_to(node: str) -> type[ssl.SSLObject]:
    """Ends a handshake with anybody else."""

    class Handshake(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found: Any = self.getpeercert() or {}
            names = [value for kind, value in found.get("subjectAltName", ()) if kind == "URI"]
            if node_of_names(names) != node:
                raise ssl.SSLCertVerificationError(f"the certificate there is not that of node {node}")

    return Handshake
