"""News of interfaces and addresses in the current network namespace: a pod came, a pod went."""

from __future__ import annotations

import asyncio
import os
import socket
from types import TracebackType

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV6_IFADDR = 0x100
_RTMGRP_IPV6_ROUTE = 0x400
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE


class Links:
    """An async iterator that yields once for every burst of changes; what changed is for the caller to look up.

    Use it as an async context manager. A burst that overran the socket counts as a change like any other.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Links:
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self._drain)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def __aiter__(self) -> Links:
        return self

    async def __anext__(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _drain(self) -> None:
        while True:
            try:
                os.read(self._socket.fileno(), 1 << 16)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: news were lost, which is news
                continue
        self._changed.set()
