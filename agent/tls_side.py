"""What Envoy is told about TLS: the listeners, and the policies that their connections are judged by."""

from __future__ import annotations

from pathlib import Path

from ..envoy.identity_filter import Ipcache
from ..envoy.tls_listener import TlsListener, tls_listeners
from ..xds import LISTENER, Enforced, Policed, Resource, TlsCompiler


class TlsSide:
    """`resources` is a pure function of its arguments; the object only remembers what is costly to make again.

    The listeners are there also while no rule is about TLS: the connections of a listener that goes away end with it.
    """

    def __init__(self, settings: TlsListener, access_log: Path, ipcache: Ipcache) -> None:
        self.port = settings.port
        self._compiler = TlsCompiler()
        self._listeners = tuple(
            Resource(LISTENER, name, body) for name, body in tls_listeners(settings, access_log, ipcache).items()
        )

    def resources(self, enforced: Enforced, policed: Policed) -> tuple[Resource, ...]:
        """All of them; `policed` as for NodeCompiler.compile, of `tls_policed_by`."""
        return (*self._listeners, *self._compiler.compile(enforced, policed))
