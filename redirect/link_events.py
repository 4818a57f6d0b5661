"""Tells when the node's interfaces change: a pod that comes or goes brings its veth."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType

from pyroute2.netlink.rtnl import RTMGRP_LINK

_BUFFER = 1 << 16


class LinkEvents:
    """An async context manager; `wait` returns after the next change. Changes while nobody waits are not lost.

    What changed is not read: whoever is told looks at the interfaces anyway, and a look cannot be out of date.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)

    async def __aenter__(self) -> LinkEvents:
        self._socket.bind((0, RTMGRP_LINK))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def wait(self) -> None:
        """Until an interface has changed since the last call."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_recv(self._socket, _BUFFER)
            while self._socket.recv(_BUFFER):
                pass
        except BlockingIOError:
            return  # all of them read
        except OSError:
            return  # ENOBUFS: so many changes that some were lost, which is one more reason to look
