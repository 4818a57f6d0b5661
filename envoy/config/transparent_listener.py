"""What the node's listeners have in common: the kernel hands each of them connections with their own source and
destination, it knows whose both ends are, and its upstream sockets carry the client's address and a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from betterproto2 import Message

from .identity_filter import Ipcache, identity_filter
from .messages import core, listener, original_src, protobuf
from .own_address import listen


class Transparent(Protocol):
    """Of a listener's settings: its port on loopback, the mark of its upstream sockets, and its backlog."""

    @property
    def port(self) -> int: ...
    @property
    def mark(self) -> int: ...
    @property
    def backlog(self) -> int: ...


def transparent_listener(
    name: str,
    settings: Transparent,
    ipcache: Ipcache,
    chains: Sequence[listener.FilterChain],
    *,
    greeting: Sequence[listener.ListenerFilter] = (),
    greeting_timeout: timedelta | None = None,
    buffer: int | None = None,
) -> listener.Listener:
    """The listener `name`, for both address families. `greeting` are filters that read what a client says first.

    `buffer` are the bytes of a connection that may wait in each direction; None leaves that to Envoy (1 MiB).
    """
    address, others = listen(settings.port)
    return listener.Listener(
        name=name,
        stat_prefix=name.replace(".", "_"),
        address=address,
        additional_addresses=others,
        transparent=True,
        traffic_direction=core.TrafficDirection.OUTBOUND,
        per_connection_buffer_limit_bytes=buffer,
        tcp_backlog_size=settings.backlog,
        listener_filters_timeout=greeting_timeout,
        listener_filters=[
            identity_filter(ipcache),
            *greeting,
            listener_filter("original_src", original_src.OriginalSrc(mark=settings.mark)),
        ],
        filter_chains=list(chains),
    )


def listener_filter(name: str, config: Message) -> listener.ListenerFilter:
    """One of Envoy's own, by the last part of its name."""
    return listener.ListenerFilter(name=f"envoy.filters.listener.{name}", typed_config=protobuf.Any.pack(config))
