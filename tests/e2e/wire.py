"""Packets as a pod with raw sockets makes them, and what a pod really gets: AF_PACKET sockets on its interface."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from types import TracebackType

from lockgate.agent.playground import UPLINK, Namespace, Pod
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
BROADCAST = b"\xff" * 6
_SO_RCVBUFFORCE = 33
_ALL = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_VNET_HDR = struct.Struct(
    "=BBHHHH"
)  # struct virtio_net_hdr; the third field says how much lies in one piece, the last where a checksum goes
_NEEDS_CHECKSUM = 1  # of its first field, VIRTIO_NET_HDR_F_NEEDS_CSUM
_ETHERNET = 14
_KINDS = {4: 0x0800, 6: 0x86DD}


class Wire:
    """The interface eth0 of a pod, or of the world: sends any frame, and keeps every frame that comes in."""

    def __init__(self, pod: Namespace, node: Namespace) -> None:
        interface = pod.interface if isinstance(pod, Pod) else UPLINK
        self._socket = netns.run_in(pod.path, lambda: _packets("eth0"))
        self.mac: bytes = self._socket.getsockname()[4]
        with netns.run_in(node.path, lambda: _packets(interface)) as other_end:
            self.gateway: bytes = other_end.getsockname()[4]

    def send(self, packet: bytes) -> None:
        """An IP packet, to the node's side of the link."""
        self.send_frame(self.gateway + self.mac + struct.pack("!H", _KINDS[packet[0] >> 4]) + packet)

    def send_frame(self, frame: bytes) -> None:
        """Any frame."""
        self._socket.send(frame)

    def send_in_pieces(self, packet: bytes, first: int) -> None:
        """An IP packet of more than a page, of which the Ethernet header and `first` bytes lie in the first piece of
        memory."""
        frame = self.gateway + self.mac + struct.pack("!H", _KINDS[packet[0] >> 4]) + packet
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        try:
            self._socket.send(_VNET_HDR.pack(0, 0, _ETHERNET + first, 0, 0, 0) + frame)
        finally:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 0)

    def send_unfinished(self, packet: bytes, start: int, offset: int) -> None:
        """An IP packet that an interface is to finish as it leaves: the checksum of what is from byte `start` of the
        packet on, written `offset` bytes behind that."""
        frame = self.gateway + self.mac + struct.pack("!H", _KINDS[packet[0] >> 4]) + packet
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        try:
            self._socket.send(_VNET_HDR.pack(_NEEDS_CHECKSUM, 0, 0, 0, _ETHERNET + start, offset) + frame)
        finally:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 0)

    def received(self) -> list[bytes]:
        """The frames that have come in since the last call."""
        found: list[bytes] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if address[2] != _OUTGOING:
                found.append(frame)

    def close(self) -> None:
        """Stop capturing."""
        self._socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _packets(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    made.bind((interface, _ALL))
    made.setblocking(False)
    return made


def checksum(data: bytes) -> int:
    """https://www.rfc-editor.org/rfc/rfc1071"""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(data: bytes, wanted: int) -> bytes:
    """`data` with another last word, so that its checksum is this one."""
    data = data[:-2] + bytes(2)
    last = (~wanted & 0xFFFF) + checksum(data)
    return data[:-2] + struct.pack("!H", (last & 0xFFFF) + (last >> 16))


def ip(
    source: IPAddress,
    destination: IPAddress,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    hops: int = 64,
) -> bytes:
    """An IPv4 or IPv6 packet. `options` and `fragment` (flags and offset) are IPv4's."""
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
        return head + source.packed + destination.packed + payload
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(payload), 77, fragment, hops, protocol, 0)
    whole = head + source.packed + destination.packed + options
    return whole[:10] + struct.pack("!H", checksum(whole)) + whole[12:] + payload


def _checked(source: IPAddress, destination: IPAddress, protocol: int, segment: bytes, at: int) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!II", len(segment), protocol)
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment)) + segment[at + 2 :]


def tcp(
    source: IPAddress,
    destination: IPAddress,
    sport: int,
    dport: int,
    flags: int = SYN,
    *,
    seq: int = 1000,
    ack: int = 0,
    data: bytes = b"",
    options: bytes = b"",
) -> bytes:
    """A TCP segment with a right checksum."""
    words = 5 + len(options) // 4
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, 64000, 0, 0)
    return _checked(source, destination, TCP, head + options + data, 16)


def udp(source: IPAddress, destination: IPAddress, sport: int, dport: int, data: bytes = b"") -> bytes:
    """A datagram with a right checksum."""
    return _checked(source, destination, UDP, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data, 6)


def icmpv6(source: IPAddress, destination: IPAddress, kind: int, rest: bytes) -> bytes:
    """A message with a right checksum; `rest` follows the first four bytes."""
    return _checked(source, destination, ICMPV6, struct.pack("!BBH", kind, 0, 0) + rest, 2)


def arp(sender: IPAddress, mac: bytes, target: IPAddress, operation: int = 2) -> bytes:
    """An ARP frame to everybody: `sender` is at `mac`."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return BROADCAST + mac + struct.pack("!H", 0x0806) + head + mac + sender.packed + bytes(6) + target.packed


def is_reset(frame: bytes) -> bool:
    """True for a TCP segment with RST."""
    return bool(_tcp_flags(frame) & RST)


def is_syn_ack(frame: bytes) -> bool:
    """True for the second segment of a handshake."""
    return _tcp_flags(frame) & (SYN | ACK) == SYN | ACK


def _tcp_flags(frame: bytes) -> int:
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == _KINDS[4] and frame[23] == TCP:
        return frame[14 + 4 * (frame[14] & 15) + 13]
    if kind == _KINDS[6] and frame[20] == TCP:
        return frame[14 + 40 + 13]
    return 0


def mapped(address: IPAddress) -> IPAddress:
    """An IPv4 address in IPv6 clothes."""
    return ip_address(bytes(10) + b"\xff\xff" + address.packed)
