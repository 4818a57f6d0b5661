"""The real programs and maps, asked packet by packet.

BPF_PROG_TEST_RUN runs a program on one packet. It cannot assign a socket (that is for packets on their way in), so a
redirected connection is recognised by what the program wrote down for it, and its first packet then really sent in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.workload import IPAddress
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.kernel import syscall
from lockgate.redirect.kernel.maps import open_map
from lockgate.redirect.kernel.syscall import Command
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.opening import Opening
from lockgate.redirect.plan import DEFAULT_DNS_PORT
from lockgate.redirect.port_prefix import PROTOCOL_NUMBERS
from lockgate.redirect.reason import Reason
from lockgate.tests.agreement.ground import wire
from lockgate.tests.agreement.packets import Packet
from lockgate.tests.forgotten import forget_connections
from lockgate.tests.program_run import run_program

_PASSED = (0, 0xFFFFFFFF)  # TC_ACT_OK, TC_ACT_UNSPEC
_CONNECTION = struct.Struct("=IIIIII2sHBBH")  # struct connection, of which proxy_port and proxied are read
_PATIENCE = 2.0
_DNS_ADDRESSES = ("127.0.0.1", "::1")
LOOPBACK = 1  # interface number of lo in every namespace
TURNED_MARK = 0x800  # what to_pod turns back to a proxy by lo
UPLINK = 1  # an interface that is no endpoint's: traffic from elsewhere came in there
source_ports = cycle(range(20000, 65000))  # one for each connection, so that none remembers another


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did. `listener` is the port of the listener that the connection was handed to, 0 for none."""

    passed: bool
    reason: Reason | None
    mark: int = 0
    listener: int = 0

    def __str__(self) -> str:
        handed = f", handed to port {self.listener}" if self.listener else ""
        named = self.reason.name if self.reason is not None else "uncounted"
        return f"{'passed' if self.passed else 'dropped'} ({named}, mark {self.mark:#x}{handed})"


class Kernel:
    """`devices` are interface -> ifindex. Lives in the namespace in which it was made."""

    def __init__(self, devices: Mapping[str, int]) -> None:
        self.pin_dir = Path(f"/sys/fs/bpf/lg-agreement-{os.getpid()}")
        self.datapath = Datapath.open(Opening(self.pin_dir))
        pins = self.pin_dir / "programs"
        self._programs = {hook: syscall.get(next(pins.glob(f"{hook.program}-*"))) for hook in Hook}
        self._connections = open_map(self.pin_dir / "maps", "connections")
        self._dns = [_listen(kind, at) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for at in _DNS_ADDRESSES]
        self._wires = {ifindex: _raw_socket(wire(name)) for name, ifindex in devices.items()}
        self._counts = self._read_counters()

    def close(self) -> None:
        """Leaves nothing behind."""
        for fd in (*self._programs.values(), self._connections):
            os.close(fd)
        for each in (*self._wires.values(), *self._dns):
            each.close()
        self.datapath.remove()

    def forget(self) -> None:
        """All connections. ICMP messages that nobody answers are one for each two ends and type."""
        forget_connections(self.pin_dir)

    def leave(self, ifindex: int, packet: Packet) -> Outcome:
        """What from_pod does with what the endpoint at `ifindex` sends."""
        return self._run(Hook.FROM_POD, ifindex, packet, 0, 0)

    def arrive(self, ifindex: int, packet: Packet, *, mark: int = 0, came_from: int = UPLINK) -> Outcome:
        """What to_pod does with what is about to reach the endpoint. `came_from` 0: the node itself sent it."""
        return self._run(Hook.TO_POD, ifindex, packet, mark, came_from)

    def enter(self, packet: Packet) -> Outcome:
        """What from_uplink does with what comes from elsewhere; what it allows is counted by to_pod."""
        return self._run(Hook.FROM_UPLINK, UPLINK, packet, 0, UPLINK)

    def turn(self, packet: Packet) -> Outcome:
        """What from_loopback does with what to_pod has turned back."""
        return self._run(Hook.FROM_LOOPBACK, LOOPBACK, packet, TURNED_MARK, LOOPBACK)

    def send(self, ifindex: int, packet: Packet) -> Reason | None:
        """Sends the packet in through the endpoint's veth, where the attached program can hand it to a socket."""
        self._counts = self._read_counters()
        self._wires[ifindex].send(packet.frame())
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if (reason := self._counted()) is not None:
                return reason
        return None

    def _run(self, hook: Hook, ifindex: int, packet: Packet, mark: int, came_from: int) -> Outcome:
        context = bytearray(192)  # struct __sk_buff
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, came_from, ifindex)
        action, mark = run_program(self._programs[hook], packet.frame(), bytes(context))
        return Outcome(action in _PASSED, self._counted(), mark, self._listener_of(packet))

    def _counted(self) -> Reason | None:
        """The one reason that was counted since the last look."""
        before, self._counts = self._counts, self._read_counters()
        changed = [key for key, packets in self._counts.items() if packets != before[key]]
        if len(changed) > 1:
            raise AssertionError(f"one packet was counted several times: {changed}")
        return changed[0][1] if changed else None

    def _read_counters(self) -> dict[tuple[str, Reason], int]:
        return {(each.direction, each.reason): each.packets for each in self.datapath.counters()}

    def _listener_of(self, packet: Packet) -> int:
        """The port of the proxy for the packet's connection, as the program has written it down; 0 for none."""
        if packet.protocol in (Protocol.ICMP, Protocol.ICMPV6):
            return 0
        key = ctypes.create_string_buffer(_connection_key(packet), 40)
        value = ctypes.create_string_buffer(_CONNECTION.size)
        attributes = struct.pack("=IIQQQ", self._connections, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
        try:
            syscall.bpf(Command.MAP_LOOKUP_ELEM, attributes)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return 0
        *_, port, _, proxied, _ = _CONNECTION.unpack(value.raw)
        return socket.ntohs(port) if proxied else 0


def _connection_key(packet: Packet) -> bytes:
    """struct connection_key: the smaller end first, compared as bpf/conntrack.h does, by words as the machine reads
    them."""
    ends = [(_mapped(packet.source), packet.sport), (_mapped(packet.destination), packet.dport)]
    words = [struct.unpack("=4I", address) for address, _ in ends]
    ports = [socket.htons(port) for _, port in ends]
    if words[0] > words[1] or (words[0] == words[1] and ports[0] > ports[1]):
        ends.reverse()
    addresses = b"".join(address for address, _ in ends)
    return addresses + struct.pack("!HHB3x", ends[0][1], ends[1][1], PROTOCOL_NUMBERS[packet.protocol])


def _mapped(address: IPAddress) -> bytes:
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _raw_socket(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind((interface, 0))
    return made


def _listen(kind: socket.SocketKind, address: str) -> socket.socket:
    """In the place of the agent's DNS proxy, for connections to be handed to; nobody reads."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.bind((address, DEFAULT_DNS_PORT))
    if kind is socket.SOCK_STREAM:
        made.listen()
    return made
