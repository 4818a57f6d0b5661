"""Where remote Envoys come, from the settings: the server's port and who it is."""

from __future__ import annotations

from ...xds import CertificateFiles, Remote
from ...xds.serve.certificate_files import Credentials
from ..errors import HostError
from ..settings import RemoteSettings


def remote_port(settings: RemoteSettings | None, node: str) -> tuple[Remote | None, CertificateFiles | None]:
    """What the xDS server of the node called `node` needs, and the files behind it; neither without settings.

    Raises:
        HostError: a remote node is called as this one is.
        CertificateError: the files cannot be used.
    """
    if settings is None:
        return None, None
    if node in settings.nodes:
        raise HostError(f"remote.nodes: {node} is this node itself; give the remote one another id")
    files = CertificateFiles(settings.authority, settings.certificate, settings.key)
    served = Remote(settings.address, settings.port, files.read(), frozenset(settings.nodes), _News(files).latest)
    return served, files


class _News:
    """For one who must be told of other credentials, whoever else looks at the files meanwhile."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._told: Credentials | None = None

    def latest(self) -> Credentials | None:
        """What is in use, when that was not told yet."""
        self._files.renewed()
        found = self._files.used
        if found is self._told:
            return None
        self._told = found
        return found
