"""Where a pod is, and where it was: nothing goes to somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from lockgate.agent.playground import Pod
from lockgate.tests.e2e.datapath_node import Node
from lockgate.tests.e2e.host_routing.ground import (
    FAMILIES,
    PORT,
    Capture,
    Datagrams,
    ports_of,
    run,
    through_stack,
)
from lockgate.tests.e2e.wire import Wire


class TestWhereAPodWas:
    """Its interface goes, while nobody tells the kernel that the policies are about."""

    @pytest.fixture(params=[0, 1], ids=["ipv4", "ipv6"])
    def flow(self, request: pytest.FixtureRequest, node: Node, late: Pod) -> Iterator[Datagrams]:
        with Datagrams(node.client, late, request.param) as flow:
            yield flow

    def is_lost(self, flow: Datagrams, elsewhere: Capture | None = None) -> None:
        """What the client sends comes nowhere."""
        for _ in range(3):
            with suppress(OSError):  # no route, says the node
                flow.client.send(b"lost")
        assert not flow.arrives()
        assert elsewhere is None or elsewhere.passed(PORT) == []

    def test_it_is_gone_and_its_number_is_anothers(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(node.ground.node, "ip", "link", "del", late.interface)
        self.is_lost(flow)
        with anothers(node, node.stranger, late.ifindex) as thief:
            self.is_lost(flow, thief)

    def test_it_is_moved_and_its_number_is_anothers(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(node.ground.node, "ip", "link", "set", late.interface, "netns", node.stranger.netns)
        try:
            run(node.stranger, "ip", "link", "set", late.interface, "up")
            self.is_lost(flow)
            with anothers(node, node.server, late.ifindex) as thief:
                self.is_lost(flow, thief)
        finally:
            run(node.stranger, "ip", "link", "del", late.interface)

    def test_it_is_down(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(node.ground.node, "ip", "link", "set", late.interface, "down")
        self.is_lost(flow)

    def test_its_end_in_the_pod_is_down(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(late, "ip", "link", "set", "eth0", "down")
        self.is_lost(flow)

    def test_its_end_in_the_pod_has_come_to_the_node(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(late, "ip", "link", "set", "eth0", "netns", node.ground.node.netns)
        run(node.ground.node, "ip", "link", "set", "eth0", "up")
        try:
            self.is_lost(flow)
        finally:
            run(node.ground.node, "ip", "link", "del", "eth0")

    def test_its_address_is_led_elsewhere(self, node: Node, late: Pod, flow: Datagrams) -> None:
        """As routing has it, at once."""
        run(node.ground.node, "ip", "route", "replace", f"{flow.ends[1]}", "dev", node.server.interface)
        neighbour = ["lladdr", "02:00:00:00:00:07", "dev", node.server.interface]
        run(node.ground.node, "ip", "neigh", "replace", f"{flow.ends[1]}", *neighbour)
        with Capture(node.server, "eth0") as server:
            self.is_lost(flow, server)
        run(node.ground.node, "ip", "neigh", "del", f"{flow.ends[1]}", "dev", node.server.interface)
        run(node.ground.node, "ip", "route", "replace", f"{flow.ends[1]}", "dev", late.interface)
        assert flow.there(b"again") == b"again"

    def test_it_is_made_again(self, node: Node, late: Pod, flow: Datagrams) -> None:
        """With another number: the connection finds its way anew."""
        family = int(flow.ends[1].version == 6)
        hop, scope = (("169.254.1.1/32", "scope link"), ("fe80::1/64", "nodad"))[family]
        mac = "02:00:00:00:00:42"
        run(node.ground.node, "ip", "link", "del", late.interface)
        for where, command in (
            (node.ground.node, f"link add {late.interface} type veth peer name eth0 address {mac} netns {late.netns}"),
            (node.ground.node, f"addr add {hop} dev {late.interface} {scope}"),
            (node.ground.node, f"link set {late.interface} up"),
            (late, "link set eth0 up"),
            (late, f"addr add {flow.ends[1]} dev eth0 {('', 'nodad')[family]}"),
            *([(late, "route add 169.254.1.1 dev eth0 scope link")] if family == 0 else []),
            (late, f"-{(4, 6)[family]} route add default via {hop.partition('/')[0]} dev eth0"),
            (node.ground.node, f"route replace {flow.ends[1]} dev {late.interface}"),
            (node.ground.node, f"neigh replace {flow.ends[1]} lladdr {mac} dev {late.interface}"),
        ):
            run(where, "ip", *command.split())
        node.inside(lambda: node.datapath.attach(node.endpoint(late)))
        node.enforce()
        with through_stack(node, late) as stack:
            for _ in range(2):
                assert flow.there(b"again") == flow.back(b"again") == b"again"
            assert len(stack.passed(PORT)) == 1
            for _ in range(3):
                assert flow.there(b"again") == flow.back(b"again") == b"again"
            assert stack.passed(PORT) == []

    def test_it_is_not_enforced_any_more(self, node: Node, late: Pod, flow: Datagrams) -> None:
        with through_stack(node, late) as stack:
            node.inside(lambda: node.datapath.detach(late.ifindex))
            assert flow.there(b"free") == b"free"
            assert late.ifindex not in (node.datapath.far_ends() or ())
            node.pods.remove(late)
            node.enforce()
            stack.passed()
            for _ in range(3):
                assert flow.there(b"free") == b"free"
            assert len(stack.passed(PORT)) == 3, "nobody's policy, and the stack's business"


@contextmanager
def anothers(node: Node, pod: Pod, ifindex: int) -> Iterator[Capture]:
    """An interface of the node with this number, which leads to another pod: what comes in there."""
    peer = ["peer", "name", "other0", "netns", pod.netns]
    run(node.ground.node, "ip", "link", "add", "other", "index", str(ifindex), "type", "veth", *peer)
    run(node.ground.node, "ip", "link", "set", "other", "up")
    run(pod, "ip", "link", "set", "other0", "up")
    with Capture(pod, "other0") as capture:
        yield capture
    run(node.ground.node, "ip", "link", "del", "other")


def test_a_pod_with_another_hardware_address(node: Node, late: Pod) -> None:
    with Datagrams(node.client, late, 0) as flow:
        run(late, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:42")
        run(node.ground.node, "ip", "neigh", "flush", "dev", late.interface)
        with Wire(late, node.ground.node) as wire, through_stack(node, late) as stack:
            for _ in range(3):
                flow.there()
            frames = [frame for frame in wire.received() if PORT in ports_of(frame)]
            assert {frame[:6] for frame in frames} == {b"\x02\x00\x00\x00\x00\x42"}
            assert len(stack.passed(PORT)) < len(frames) == 3


@FAMILIES
def test_an_end_in_the_nodes_own_namespace_is_left_to_the_stack(node: Node, late: Pod, family: int) -> None:
    """As where the node's own bridge is behind an endpoint's interface: nothing can be put in there."""
    space = node.ground.node
    own, hop, bits = late.ips[family], ("169.254.1.1", "fe80::1")[family], (32, 128)[family]
    for command in (
        "link add br7 type bridge",
        "link add leg type veth peer name plug",
        f"link add port type veth peer name eth1 netns {late.netns}",
        "link set plug master br7",
        "link set port master br7",
        *(f"link set {name} up" for name in ("br7", "leg", "plug", "port")),
        f"addr add {hop}/{(32, 64)[family]} dev leg {('scope link', 'nodad')[family]}",
        f"route replace {own} dev leg",
    ):
        run(space, "ip", *command.split())
    try:
        for command in (
            f"addr del {own}/{bits} dev eth0",
            "link set eth1 up",
            f"addr add {own}/{bits} dev eth1 {('', 'nodad')[family]}",
            *([f"route add {hop} dev eth1 scope link"] if family == 0 else []),
            f"-{(4, 6)[family]} route replace default via {hop} dev eth1",
        ):
            run(late, "ip", *command.split())
        node.placed[late.name] = "leg"
        node.inside(lambda: node.datapath.attach(node.endpoint(late)))
        node.enforce()
        with Datagrams(node.client, late, family) as flow:
            for _ in range(5):
                assert flow.there() == flow.back() == b"warm"
    finally:
        node.placed.clear()
        for name in ("leg", "port", "br7"):
            run(space, "ip", "link", "del", name)
