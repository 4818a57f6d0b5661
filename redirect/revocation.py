"""Live connections that a change no longer allows, and how both of their ends learn of it at once.

The kernel refuses their next packet and resets whoever sent it (`revoke` in bpf/admit.h). An end that is silent
hears nothing that way, so each is asked: a segment out of nowhere, as if from the other end, makes it acknowledge what
it has, and that is the packet which earns it a reset with the right numbers. Sockets of this node's own - Envoy's two
legs of what it carries, and those of the node's processes - are closed outright.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache

from ..policies.endpoint_policy import Direction, Protocol
from ..policies.workload import IPAddress
from .connections import LiveConnection
from .errors import BpfUnsupportedError
from .plan import HOST, DatapathPlan, Owner, Verdict, is_group
from .socket_diag import End, SocketDiag

_MARK_JUDGED = 0x400  # bpf/mark.h
_SYN, _ACK = 0x02, 0x10
_TCP = 6
_SO_MARK = 36


def revoked(live: Iterable[LiveConnection], plan: DatapathPlan) -> tuple[LiveConnection, ...]:
    """Those that the plan does not allow as they are."""
    owner: Callable[[IPAddress], Owner | None] = cache(plan.owner)

    @cache
    def of_group(group: int, direction: Direction, peer: IPAddress, service: int) -> Verdict:
        return plan.judge_group(group, direction, peer, Protocol.TCP, service).verdict

    @cache
    def verdict(client: IPAddress, interface: int, made_by: int, server: IPAddress, service: int) -> Verdict:
        asks = owner(client)
        if asks is not None and asks.identity == HOST:  # it may have been given the node's address on its way
            if interface:
                asks = plan.owner_at(interface)
            elif made_by:
                asks = Owner(made_by)
        return plan.judge_owners(asks, owner(server), Protocol.TCP, service).verdict

    def is_revoked(each: LiveConnection) -> bool:
        if is_group(each.client_interface):
            found = of_group(each.client_interface, Direction.EGRESS, each.server, each.service)
        elif is_group(each.server_interface):
            found = of_group(each.server_interface, Direction.INGRESS, each.client, each.service)
        else:
            found = verdict(each.client, each.client_interface, each.made_by, each.server, each.service)
        return found is Verdict.DENY or (found is Verdict.REDIRECT and not each.proxied)

    return tuple(each for each in live if is_revoked(each))


def end(connections: Iterable[LiveConnection]) -> None:
    """Has both ends of each learn that it is over.

    What the kernel cannot do (no CONFIG_INET_DIAG_DESTROY, no route to an end) is left to the next packet.
    """
    with SocketDiag() as diag:
        raw = {4: _raw_socket(socket.AF_INET), 6: _raw_socket(socket.AF_INET6)}
        try:
            for each in connections:
                client, server = (each.client, each.client_port), (each.server, each.server_port)
                _destroy(diag, client, server)
                _destroy(diag, server, client)
                asking = raw[each.client.version]
                if asking is not None and not each.proxied and not _is_a_groups(each):
                    # Where the server's address is translated conntrack has to know the segment for one of the
                    # connection, as it does what answers a SYN again; the client acknowledges that as well.
                    _ask(asking, server, client, each.client_interface, _ACK if each.client_interface else _SYN | _ACK)
                    _ask(asking, client, server, each.server_interface)
        finally:
            for opened in raw.values():
                if opened is not None:
                    opened.close()


def end_accepted(connections: Iterable[tuple[IPAddress, int, IPAddress, int]]) -> None:
    """Close those (client, its port, server, its port) that a proxy of this node has accepted in the server's place.

    One that is over already is fine. Raises OSError.
    """
    with SocketDiag() as diag:
        for client, client_port, server, server_port in connections:
            _destroy(diag, (server, server_port), (client, client_port))


def _is_a_groups(connection: LiveConnection) -> bool:
    """At a socket of the node's, which is closed."""
    return is_group(connection.client_interface) or is_group(connection.server_interface)


def _raw_socket(family: socket.AddressFamily) -> socket.socket | None:
    try:
        return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)  # the header is ours, the source too
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise


def _ask(raw: socket.socket, source: End, destination: End, ifindex: int, flags: int = _ACK) -> None:
    with suppress(OSError):  # no route: it hears nothing of the other end either
        raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, ifindex << 16 | _MARK_JUDGED if ifindex else 0)
        raw.sendto(segment(source, destination, flags), (str(destination[0]), 0))


def segment(source: End, destination: End, flags: int = _ACK) -> bytes:
    """An IP packet with an acknowledgement of nothing."""
    addresses = source[0].packed + destination[0].packed
    tcp = struct.pack("!HHIIBBHHH", source[1], destination[1], 0, 0, 0x50, flags, 0, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", _checksum(addresses + struct.pack("!II", len(tcp), _TCP) + tcp)) + tcp[18:]
    if source[0].version == 6:
        return struct.pack("!IHBB", 6 << 28, len(tcp), _TCP, 64) + addresses + tcp
    # The kernel fills in length and checksum of an IPv4 header.
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, _TCP, 0) + addresses + tcp


def _checksum(data: bytes) -> int:
    """https://www.rfc-editor.org/rfc/rfc1071"""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _destroy(diag: SocketDiag, local: End, remote: End) -> None:
    """Close this node's socket with these ends, if there is one; its peer gets a reset."""
    found = diag.between(local, remote)
    if found is not None:
        with suppress(BpfUnsupportedError):
            diag.end(found)
