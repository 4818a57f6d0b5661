"""Where host routing may lead: interfaces of endpoints whose other end is in another network namespace."""

from __future__ import annotations

from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from . import layout
from .device import undisturbed
from .kernel.maps import PinnedMap


class FarEnds:
    """The kernel's map of them (bpf/host_routing.h)."""

    def __init__(self, folder: Path) -> None:
        self._map = PinnedMap(folder, layout.FAR_ENDS)
        self._map.remove(self._map.read())  # an earlier agent's

    def known(self) -> frozenset[int]:
        """Those that packets are handed to."""
        return frozenset(self._map.read())

    def learn(self, ifindex: int) -> None:
        """Looks at an interface before packets are to be handed to its other end, which must not be a port of a bridge:
        there the bridge says who gets what."""
        try:
            with IPRoute() as routes:
                links = undisturbed(lambda: list(routes.get_links(ifindex)))
        except (OSError, NetlinkError):
            links = []  # it is gone
        if any(link.get("link_netnsid") is not None and link.get("master") is None for link in links):
            self._map.put({ifindex: 1})
        else:
            self.forget(ifindex)

    def forget(self, ifindex: int) -> None:
        """Unknown ones are fine."""
        self._map.remove([ifindex])

    def close(self) -> None:
        """Let go of the map."""
        self._map.close()
