"""Policies for processes of the node itself, by their control group, on a live node."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing

import pytest
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, UPLINK_IPV4
from lockgate.tests.e2e.live_node import CLOSED, DROPPED, GLANCE, OK, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.node_service import ANSWERED, NodeService
from lockgate.tests.e2e.node_service import CLOSED as ENDED
from lockgate.tests.e2e.node_service import DROPPED as MUTE
from lockgate.tests.e2e.udp_echo import UdpEcho
from lockgate.tests.e2e.wire import ACK, TCP, UDP, Wire, ip, tcp, udp

OPEN_IN, SHUT_IN = 7001, 7002  # of the service
OPEN_OUT, SHUT_OUT, UDP_OUT, UDP_SHUT = 7101, 7102, 7301, 7302  # of the world
LOCAL = 7401  # of another service of the node
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: billing}
spec:
  endpointSelector: {matchLabels: {app: billing}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: frontend}}]
    toPorts: [{ports: [{port: "7001"}]}]
  - fromEntities: [world]
    toPorts: [{ports: [{port: "7001", protocol: TCP}]}]
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "7101", protocol: TCP}, {port: "7301", protocol: UDP}]}]
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shut}
spec:
  endpointSelector: {matchLabels: {app: shut}}
  ingress: [{}]
  egress: [{}]
"""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
NODE, OUTSIDE = (NODE_IPV4, NODE_IPV6), (OUTSIDE_IPV4, OUTSIDE_IPV6)


def list_services(node: LiveNode, groups: Mapping[str, str]) -> None:
    """These, by their names, beside the pods."""
    listed = [
        f"- {{name: {name}, namespace: default, labels: {{app: {name}}}, cgroup: {group}}}"
        for name, group in groups.items()
    ]
    node.replace(node.workloads, "\n".join([node.ground.workloads_yaml(), *listed]))


@pytest.fixture(scope="module")
def group() -> str:
    return f"/lockgate-test-{os.getpid()}.slice/billing.service"


@pytest.fixture(scope="module")
def node(group: str) -> Iterator[LiveNode]:
    with live_node(start=False) as made, ExitStack() as opened:
        outside = made.ground.outside()
        for port in (OPEN_OUT, SHUT_OUT):
            made.webs[f"outside {port}"] = made.web_at(outside, port)
        made.webs["beside"] = made.web_at(made.node, LOCAL)
        for port in (UDP_OUT, UDP_SHUT):
            opened.enter_context(UdpEcho(outside, port))
        list_services(made, {"billing": group})
        made.write("billing", POLICY)
        made.start_agent(ready=False)
        made.until("the missing service is told", lambda: any(group in each for each in made.problems()))
        yield made


@pytest.fixture(scope="module")
def service(node: LiveNode, group: str) -> Iterator[NodeService]:
    with closing(NodeService(node.node, group)) as made:
        for port in (OPEN_IN, SHUT_IN):
            made.serve(port)
        in_force(node, made)
        yield made


def in_force(node: LiveNode, *services: NodeService) -> None:
    """Each is policed, and by its policy: until then all that it sends is dropped."""
    policed = len(services)
    node.until("they are policed", lambda: node.ok() and node.status()["datapath"]["groups"] == policed)
    node.until("the policy is in force", lambda: services[0].fetch(OUTSIDE_IPV4, OPEN_OUT) == ANSWERED)


@FAMILIES
class TestWhatItSends:
    def test_to_the_world(self, node: LiveNode, service: NodeService, family: int) -> None:
        assert service.fetch(OUTSIDE[family], OPEN_OUT) == ANSWERED
        assert service.fetch(OUTSIDE[family], SHUT_OUT, GLANCE) == MUTE
        assert service.send(OUTSIDE[family], UDP_OUT) == ANSWERED
        assert service.send(OUTSIDE[family], UDP_SHUT, GLANCE) == MUTE
        assert not node.webs[f"outside {SHUT_OUT}"].seen

    def test_to_pods(self, node: LiveNode, service: NodeService, family: int) -> None:
        """Who has a rule by request lets the node in, and the service is part of it."""
        assert service.fetch(node.backend.ips[family], 8080) == ANSWERED
        assert service.fetch(node.api.ips[family], 80, GLANCE) == MUTE

    def test_to_the_node(self, node: LiveNode, service: NodeService, family: int) -> None:
        loopback = ("127.0.0.1", "::1")[family]
        assert service.fetch(loopback, LOCAL, GLANCE) == MUTE
        assert service.fetch(NODE[family], LOCAL, GLANCE) == MUTE
        assert fetch(node.node, loopback, LOCAL) == OK

    def test_others_of_the_node_are_let_be(self, node: LiveNode, service: NodeService, family: int) -> None:
        assert fetch(node.node, OUTSIDE[family], SHUT_OUT) == OK
        node.webs[f"outside {SHUT_OUT}"].seen.clear()


@FAMILIES
class TestWhatItIsSent:
    def test_from_the_world(self, node: LiveNode, service: NodeService, family: int) -> None:
        uplink = ("192.0.2.1", "2001:db8::1")[family]
        outside = node.ground.outside()
        assert fetch(outside, uplink, OPEN_IN) == OK
        assert fetch(outside, uplink, SHUT_IN, patience=GLANCE) == DROPPED

    def test_from_pods(self, node: LiveNode, service: NodeService, family: int) -> None:
        assert fetch(node.frontend, NODE[family], OPEN_IN) == OK
        assert fetch(node.frontend, NODE[family], SHUT_IN, patience=GLANCE) == DROPPED
        assert fetch(node.intruder, NODE[family], OPEN_IN, patience=GLANCE) == DROPPED

    def test_from_the_node(self, node: LiveNode, service: NodeService, family: int) -> None:
        """As every endpoint, it lets the node in."""
        assert fetch(node.node, ("127.0.0.1", "::1")[family], SHUT_IN) == OK


class TestChanges:
    def test_a_connection_that_is_no_longer_allowed_ends_at_both_ends(
        self, node: LiveNode, service: NodeService
    ) -> None:
        asking, outcome = service.connect(OUTSIDE_IPV4, OPEN_OUT)
        assert (outcome, service.ask(asking)) == (ANSWERED, ANSWERED)
        with Line(node.frontend, NODE_IPV4, OPEN_IN) as line:
            assert str(line.ask()) == OK
            node.write("billing", POLICY.replace("7001", "7009").replace("7101", "7109"))
            node.until("its connection is closed", lambda: service.ask(asking, 0.1) == ENDED)
            node.becomes(CLOSED, line.ask)
        node.write("billing", POLICY)
        node.until("it is let in again", lambda: service.fetch(OUTSIDE_IPV4, OPEN_OUT) == ANSWERED)

    def test_what_stays_allowed_goes_on(self, node: LiveNode, service: NodeService) -> None:
        asking, _ = service.connect(OUTSIDE_IPV4, OPEN_OUT)
        with Line(node.frontend, NODE_IPV4, OPEN_IN) as line:
            assert (service.ask(asking), str(line.ask())) == (ANSWERED, OK)
            node.write("billing", POLICY.replace("7301", "7309"))
            node.until("it is in force", lambda: service.send(OUTSIDE_IPV4, UDP_OUT, 0.2) == MUTE)
            assert (service.ask(asking), str(line.ask())) == (ANSWERED, OK)
        node.write("billing", POLICY)
        node.until("it is let out again", lambda: service.send(OUTSIDE_IPV4, UDP_OUT, 0.2) == ANSWERED)

    def test_without_an_agent_and_with_the_next(self, node: LiveNode, service: NodeService) -> None:
        asking, _ = service.connect(OUTSIDE_IPV4, OPEN_OUT)
        node.end_agent()
        assert service.ask(asking) == ANSWERED
        assert service.fetch(OUTSIDE_IPV4, OPEN_OUT) == ANSWERED
        assert service.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE
        node.start_agent()
        in_force(node, service)
        assert service.ask(asking) == ANSWERED
        assert service.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE

    def test_an_agent_that_was_killed_between_two_programs(
        self, node: LiveNode, service: NodeService, group: str
    ) -> None:
        """Of one group that stays a workload, and of one that is none any more when the next agent comes."""
        links = node.settings.pin_dir / "process-links"
        other = f"{group.rpartition('/')[0]}/other.service"
        with closing(NodeService(node.node, other)) as left:
            list_services(node, {"billing": group, "shut": other})
            in_force(node, service, left)
            node.end_agent(signal.SIGKILL)
            for path in links.glob("*-from_process"):
                path.unlink()
            list_services(node, {"billing": group})
            node.start_agent()
            in_force(node, service)
            assert service.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE
            assert left.fetch(OUTSIDE_IPV4, SHUT_OUT) == ANSWERED
            assert len(list(links.iterdir())) == 2

    def test_a_service_that_is_started_anew(self, node: LiveNode, service: NodeService, group: str) -> None:
        """Its group is another then, under the same path, as systemd does it."""
        other = f"{group.rpartition('/')[0]}/other.service"
        list_services(node, {"billing": other})
        node.until("the list is read", lambda: any(other in each for each in node.problems()))
        node.until("the first is nobody's any more", lambda: service.fetch(OUTSIDE_IPV4, SHUT_OUT) == ANSWERED)
        for _ in range(2):
            with closing(NodeService(node.node, other)) as started:
                in_force(node, started)
                assert started.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE
            node.until("it is missed", lambda: any(other in each for each in node.problems()))
        list_services(node, {"billing": group})
        in_force(node, service)
        assert service.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE

    def test_a_request_rule_allows_nothing_and_is_told(self, node: LiveNode, service: NodeService) -> None:
        by_request = 'toPorts: [{ports: [{port: "7101", protocol: TCP}], rules: {http: [{method: GET}]}}]'
        ports = 'toPorts: [{ports: [{port: "7101", protocol: TCP}, {port: "7301", protocol: UDP}]}]'
        assert ports in POLICY
        node.write("billing", POLICY.replace(ports, by_request))
        node.until("it is told", lambda: any("no proxy takes up" in each for each in node.problems()))
        node.until("it is in force", lambda: service.fetch(OUTSIDE_IPV4, OPEN_OUT, 0.2) == MUTE)
        node.write("billing", POLICY)
        node.until("it is let out again", lambda: service.fetch(OUTSIDE_IPV4, OPEN_OUT) == ANSWERED)


class TestRoundIt:
    def test_raw_packets(self, node: LiveNode, service: NodeService) -> None:
        """Of any protocol, and in fragments, which would hide a port."""
        here, there, mark = UPLINK_IPV4, OUTSIDE_IPV4, os.urandom(16)
        shut = [
            udp(here, there, 40000, UDP_SHUT, mark),
            tcp(here, there, 40000, SHUT_OUT, data=mark),
            tcp(here, there, 40000, SHUT_OUT, ACK, data=mark),
        ]
        protocols = {UDP: shut[:1], TCP: shut[1:], 4: [mark * 2], 47: [mark * 2], 132: [mark * 2], 255: [mark * 2]}
        tried = [ip(here, there, number, each) for number, sent in protocols.items() for each in sent]
        whole = udp(here, there, 40000, UDP_OUT, mark * 2)
        tried += [ip(here, there, UDP, whole[:16], fragment=0x2000), ip(here, there, UDP, whole[16:], fragment=2)]
        with Wire(node.ground.outside(), node.node) as wire:
            service.send_raw(*tried)
            service.send_raw(ip(here, there, UDP, udp(here, there, 40001, UDP_OUT, b"last")))
            seen: list[bytes] = []

            def the_last_came() -> bool:
                seen.extend(wire.received())
                return any(b"last" in frame for frame in seen)

            node.until("what is allowed comes through", the_last_came)
        assert not [frame for frame in seen if mark in frame]

    def test_a_group_below(self, node: LiveNode, service: NodeService, group: str) -> None:
        with closing(NodeService(node.node, f"{group}/worker")) as below:
            assert below.fetch(OUTSIDE_IPV4, OPEN_OUT) == ANSWERED
            assert below.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE

    def test_the_deepest_group_that_is_a_workload_counts(
        self, node: LiveNode, service: NodeService, group: str
    ) -> None:
        above = group.rpartition("/")[0]
        list_services(node, {"billing": group, "shut": above})
        with closing(NodeService(node.node, f"{above}/beside.service")) as beside:
            in_force(node, service, beside)
            assert beside.fetch(OUTSIDE_IPV4, OPEN_OUT, GLANCE) == MUTE
        list_services(node, {"billing": group})
        in_force(node, service)

    def test_a_port_that_another_has_left(self, node: LiveNode, service: NodeService, group: str) -> None:
        other = f"{group.rpartition('/')[0]}/shut.service"
        with closing(NodeService(node.node, other)) as shut:
            list_services(node, {"billing": group, "shut": other})
            in_force(node, service, shut)
            assert service.send(OUTSIDE_IPV4, UDP_OUT, source=40002) == ANSWERED
            assert shut.send(OUTSIDE_IPV4, UDP_OUT, GLANCE, source=40002) == MUTE
            assert service.send(OUTSIDE_IPV4, UDP_OUT, source=40002) == ANSWERED
        list_services(node, {"billing": group})
        in_force(node, service)


def test_a_denial_is_told_with_the_services_name(node: LiveNode, service: NodeService) -> None:
    assert service.fetch(OUTSIDE_IPV4, SHUT_OUT, GLANCE) == MUTE
    there = ("--from", "billing", "--to", str(OUTSIDE_IPV4))  # it may still say something to others that it has served
    told = node.lockgate("flows", "--verdict", "dropped", *there, "-o", "json").out.splitlines()
    last = json.loads(told[-1])
    assert (last["source"]["endpoint"], last["destination"]["ip"]) == ("default/billing", str(OUTSIDE_IPV4))
    assert (last["direction"], last["why"]) == ("egress", "no egress rule of default/billing allows it")


def test_explain_agrees(node: LiveNode, service: NodeService) -> None:
    def verdict(source: str, destination: str, port: int) -> str:
        told = node.lockgate("policy", "explain", "--from", source, "--to", destination, "--port", port, "-o", "json")
        return str(told.data["verdict"])

    assert verdict("billing", str(OUTSIDE_IPV4), OPEN_OUT) == "allow"
    assert verdict("billing", str(OUTSIDE_IPV4), SHUT_OUT) == "deny"
    assert verdict("billing", "backend", 8080) == "allow"
    assert verdict("billing", "api-server", 80) == "deny"
    assert verdict("billing", "127.0.0.1", LOCAL) == "deny"
    assert verdict("frontend", "billing", OPEN_IN) == "allow"
    assert verdict("intruder", "billing", OPEN_IN) == "deny"
    assert verdict("reserved:host", "billing", SHUT_IN) == "allow"
