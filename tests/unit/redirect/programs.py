"""Two pods and the programs at their interfaces, to be run by the kernel on packets made here (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import TypeVar

from lockgate.agent.playground import Playground
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    DnsRule,
    DnsRules,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from lockgate.policies.identity import IPNetwork
from lockgate.policies.resolve import LOCAL_HOST
from lockgate.policies.workload import Endpoint, IPAddress, Workload
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.kernel import netns, syscall
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.opening import Opening
from lockgate.redirect.plan import DatapathPlan
from lockgate.redirect.planner import Planner
from lockgate.redirect.reason import Reason
from lockgate.tests.program_run import run_program
from pyroute2 import IPRoute

T = TypeVar("T")

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "test", "spec", "test.yaml", 1)
OK, SHOT, TURNED_BACK = 0, 2, 7
UNSPEC = 0xFFFFFFFF  # TC_ACT_UNSPEC: on to whoever else has a program there
FIN, SYN, ACK, RST = 0x01, 0x02, 0x10, 0x04
ENVOY_MARK = 0xA00
PROXY_MARK = 0x200
LEFT_MARK, SENT_MARK = 0x600, 0xC00  # and in the upper half where it came in, if that is of any use
TURNED_MARK = 0x800
AS_NAMED = 1 << 16 | TURNED_MARK  # what is turned back goes where it was sent
JUDGED = 0x400  # and in the upper half the endpoint that was asked
DNS = DnsRules((DnsRule(match_pattern="*"),))
CLIENT, SERVER = 70001, 70002
OPEN = EndpointPolicy()
WORLD = ip_address("192.0.2.9")
HOST = ip_address("10.200.0.1")
HOST_LINK = ip_address("fe80::99")
PASSED = {Reason.ALLOWED, None}


@dataclass(frozen=True)
class Outcome:
    """`reason` None: let through uncounted."""

    action: int
    mark: int
    reason: Reason | None


class Kernel:
    """Two endpoints and the programs in a namespace."""

    def __init__(self) -> None:
        self.ground = Playground(f"programs{os.getpid()}")
        self.pin_dir = Path(f"/sys/fs/bpf/lg-programs-{os.getpid()}")
        self.client, self.server = self.ground.pod("client"), self.ground.pod("server")
        self.outside = self.ground.pod("outside")  # no endpoint: an address like any other
        self.datapath = self.inside(lambda: Datapath.open(Opening(self.pin_dir)))
        self.programs = {
            hook: syscall.get(next((self.pin_dir / "programs").glob(f"{hook.program}-*"))) for hook in Hook
        }

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def enforce(
        self,
        client: EndpointPolicy = OPEN,
        server: EndpointPolicy = OPEN,
        host: EndpointPolicy | None = None,
        closed: Collection[IPNetwork] = (),
    ) -> DatapathPlan:
        def endpoint(identity: int, ifindex: int, ips: tuple[IPAddress, ...]) -> Endpoint:
            return Endpoint(Workload(str(identity), "default", ()), identity, ips, ifindex)

        wanted = Planner().plan(
            [
                (endpoint(CLIENT, self.client.ifindex, self.client.ips), client),
                (endpoint(SERVER, self.server.ifindex, self.server.ips), server),
            ],
            {
                ip_network("0.0.0.0/0"): 9,
                ip_network("::/0"): 10,
                ip_network(HOST): 1,
                ip_network(HOST_LINK): 1,
            },
            host=host,
            closed=closed,
        )
        self.datapath.apply(wanted)
        return wanted

    def run(
        self, hook: Hook, ifindex: int, packet: bytes, mark: int = 0, came_from: int = 0, *, astray: bool = False
    ) -> Outcome:
        """At an uplink a frame is addressed to it, unless it is `astray`."""
        if hook in (Hook.FROM_UPLINK, Hook.FROM_TUNNEL) and not astray:
            packet = self.inside(lambda: hardware_address(ifindex)) + packet[6:]
        context = bytearray(192)  # struct __sk_buff
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, came_from, ifindex)
        before = {(each.direction, each.reason): each.packets for each in self.datapath.counters()}
        action, mark = self.inside(lambda: run_program(self.programs[hook], packet, bytes(context)))
        after = {(each.direction, each.reason): each.packets for each in self.datapath.counters()}
        changed = [reason for (direction, reason), packets in after.items() if packets != before[direction, reason]]
        assert len(changed) <= 1
        return Outcome(action, mark, changed[0] if changed else None)

    def send(self, packet: bytes) -> Outcome:
        """What from_pod does with a packet of the client."""
        return self.run(Hook.FROM_POD, self.client.ifindex, packet)

    def close(self) -> None:
        for fd in self.programs.values():
            os.close(fd)
        self.inside(self.datapath.remove)
        self.ground.close()


def hardware_address(ifindex: int) -> bytes:
    with IPRoute() as routes:
        return bytes.fromhex(routes.get_links(ifindex)[0].get("address").replace(":", ""))


def ether(payload: bytes, kind: int) -> bytes:
    return bytes(12) + struct.pack("!H", kind) + payload


def ip(
    source: IPAddress,
    destination: IPAddress,
    protocol: int,
    payload: bytes,
    fragment: int = 0,
    options: bytes = b"",
    hops: int = 64,
) -> bytes:
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
        return head + source.packed + destination.packed + payload
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(payload), 1, fragment, hops, protocol, 0)
    return head + source.packed + destination.packed + options + payload


def frame(packet: bytes) -> bytes:
    return ether(packet, 0x86DD if packet[0] >> 4 == 6 else 0x0800)


def tcp(sport: int, dport: int, flags: int = SYN) -> bytes:
    return struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 1000, 0, 0)


def udp(sport: int, dport: int) -> bytes:
    return struct.pack("!HHHH", sport, dport, 40, 0) + bytes(32)


def icmp(kind: int, identifier: int = 1, rest: bytes = b"") -> bytes:
    return struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + rest


def rule(
    peer: int | None,
    *ports: int,
    http: bool = False,
    dns: bool = False,
    deny: bool = False,
    protocol: Protocol = Protocol.TCP,
) -> ResolvedRule:
    peers = None if peer is None else frozenset({peer})
    spans = tuple(PortSpan(protocol, port, port) for port in ports)
    l7 = HttpRules((HttpRule(),)) if http else DNS if dns else None
    return ResolvedRule(ORIGIN, deny, peers, spans or None, l7)


def egress(*rules: ResolvedRule) -> EndpointPolicy:
    return EndpointPolicy(egress=DirectionPolicy(True, rules))


def ingress(*rules: ResolvedRule) -> EndpointPolicy:
    return EndpointPolicy(ingress=DirectionPolicy(True, (*rules, LOCAL_HOST)))


fresh = count(20000)  # a source port for each connection, so that none remembers another


def both(kernel: Kernel, version: int) -> tuple[IPAddress, IPAddress]:
    return (kernel.client.ipv4, kernel.server.ipv4) if version == 4 else (kernel.client.ipv6, kernel.server.ipv6)
