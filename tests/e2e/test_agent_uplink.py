"""Who is not on the node asks pods with request rules: through the uplink, and judged by Envoy like everybody else."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

import pytest
import yaml
from lockgate.agent.playground import UPLINK, Outside
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.command_line import lockgate
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line, LiveNode, fetch, live_node

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: {app}}}}}
  {direction}:
  - {peer}
    toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]{rules}}}]
"""
PUBLIC = ', rules: {http: [{path: "/public"}]}'
ELSEWHERE = ip_address("10.201.0.7"), ip_address("fd00:201::7")  # a pod on another node
NEARBY = ip_address("198.51.100.4"), ip_address("2001:db8:4::4")  # in the CIDR below


def policy(name: str, peer: str, rules: str = PUBLIC, app: str = "api-server", egress: bool = False) -> str:
    direction = "egress" if egress else "ingress"
    return POLICY.format(name=name, peer=peer, rules=rules, app=app, direction=direction, port=80)


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        outside = made.ground.outside()
        for ip in (*ELSEWHERE, *NEARBY):
            outside.add_address(ip)
        remote = {"name": "remote", "labels": {"app": "remote"}, "ips": [str(ip) for ip in ELSEWHERE]}
        entries = yaml.safe_load(made.ground.workloads_yaml())["workloads"]
        made.replace(made.workloads, yaml.safe_dump({"workloads": [*entries, remote]}))
        for path in made.policies.iterdir():
            path.unlink()
        made.write("world", policy("world", "fromEntities: [world]"))
        cidr = "fromCIDR: [198.51.100.0/24, 2001:db8:4::/48]"
        made.write("cidr", policy("cidr", cidr, ', rules: {http: [{path: "/near"}]}'))
        remote_peer = "fromEndpoints: [{matchLabels: {app: remote}}]"
        made.write("remote", policy("remote", remote_peer, ', rules: {http: [{path: "/remote"}]}'))
        made.write("backend", policy("backend", "fromEntities: [world]", "", app="backend").replace('"80"', '"8080"'))
        made.start_agent()
        made.until("the uplink is attached", lambda: made.status()["datapath"]["uplinks"] == 1)
        yield made


@pytest.fixture
def outside(node: LiveNode) -> Outside:
    for web in node.webs.values():
        web.seen.clear()
    return node.ground.outside()


def from_address(outside: Outside, source: IPAddress, ip: IPAddress, path: str, port: int = 80) -> str:
    """Like `fetch`, as one of the addresses outside."""

    def connect() -> socket.socket:
        return socket.create_connection((str(ip), port), GLANCE * 3, (str(source), 0))

    try:
        made = netns.run_in(outside.path, connect)
    except TimeoutError:
        return DROPPED
    except ConnectionError:  # in the moment in which the address changes hands
        return CLOSED
    with made:
        try:
            made.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: made.recv(4096), b"")).decode()
        except ConnectionError:
            return CLOSED
    head, _, body = answer.partition("\r\n\r\n")
    return f"{head.split()[1]} {body.strip()}".strip()


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
class TestRequestsFromOutside:
    def test_the_world(self, node: LiveNode, outside: Outside, family: int) -> None:
        api = node.api.ips[family]
        assert fetch(outside, api, 80, "/public") == OK
        for path in ("/", "/near", "/remote", "/public/../near"):
            assert fetch(outside, api, 80, path) == DENIED
        assert [(each.client, each.path) for each in node.webs["api-server"].seen] == [
            (str(outside.ips[family]), "/public")
        ]

    def test_a_cidr_and_a_pod_of_another_node(self, node: LiveNode, outside: Outside, family: int) -> None:
        api = node.api.ips[family]
        near, remote = NEARBY[family], ELSEWHERE[family]
        assert from_address(outside, near, api, "/near") == OK
        assert from_address(outside, near, api, "/public") == OK, "it is of the world, too"
        assert from_address(outside, near, api, "/remote") == DENIED
        assert from_address(outside, remote, api, "/remote") == OK
        for path in ("/public", "/near"):
            assert from_address(outside, remote, api, path) == DENIED
        assert [(each.client, each.path) for each in node.webs["api-server"].seen] == [
            (str(near), "/near"),
            (str(near), "/public"),
            (str(remote), "/remote"),
        ]

    def test_explain_says_the_same(self, node: LiveNode, outside: Outside, family: int) -> None:
        api = node.api.ips[family]
        asked = [
            (who, source, path)
            for who, source in (("world", outside.ips[family]), ("near", NEARBY[family]), ("remote", ELSEWHERE[family]))
            for path in ("/public", "/near", "/remote")
        ]
        flows = node.folder / "flows"
        flows.write_text(
            "\n".join(
                json.dumps({"from": str(source), "to": str(api), "port": 80, "http": {"method": "GET", "path": path}})
                for _, source, path in asked
            )
        )
        files = ("--policies", node.policies, "--workloads", node.workloads)
        ended = lockgate("policy", "explain", *files, "--flows", flows)
        said = [{"deny": DENIED, "allow": OK}[json.loads(line)["verdict"]] for line in ended.out.splitlines()]
        assert said == [from_address(outside, source, api, path) for _, source, path in asked]
        assert said.count(OK) == 4

    def test_what_the_kernel_allows_never_enters_envoy(self, node: LiveNode, outside: Outside, family: int) -> None:
        entered = "^listener.lockgate_http.downstream_cx_total$"
        before = node.stat(entered)
        assert fetch(outside, node.backend.ips[family], 8080) == OK
        assert from_address(outside, ELSEWHERE[family], node.backend.ips[family], "/", 8080) == DROPPED
        assert node.stat(entered) == before
        assert fetch(outside, node.api.ips[family], 80, "/public") == OK
        assert node.stat(entered) == before + 1

    def test_a_pods_requests_to_the_outside(self, node: LiveNode, outside: Outside, family: int) -> None:
        """The other direction: Envoy asks with the pod's address, and the answer comes in through the uplink."""
        web = node.webs.get("outside") or node.webs.setdefault("outside", node.web_at(outside, 80))
        entities = policy("out", "toEntities: [world]", app="frontend", egress=True)
        path = node.write("out", entities)
        ask = partial(fetch, node.frontend, outside.ips[family], 80, patience=GLANCE * 3)
        node.becomes(DENIED, lambda: ask("/other"))
        web.seen.clear()
        assert ask("/public") == OK
        assert [(each.client, each.path) for each in web.seen] == [(str(node.frontend.ips[family]), "/public")]
        path.unlink()
        node.becomes(OK, lambda: ask("/other"))

    def test_the_node_itself_is_let_in(self, node: LiveNode, outside: Outside, family: int) -> None:
        assert fetch(node.node, node.api.ips[family], 80, "/anything") == OK

    def test_who_claims_an_address_of_the_node_or_of_a_pod(self, node: LiveNode, outside: Outside, family: int) -> None:
        """Nobody outside may speak for whom the node knows; the pods' own traffic does not come in here."""
        length = 32 if family == 0 else 128
        for ip in (node.frontend.ips[family], ip_address(("192.0.2.1", "2001:db8::1")[family])):
            outside.run(["ip", "addr", "add", f"{ip}/{length}", "dev", "lo"], check=True)
            try:
                before = dropped(node, "spoofed")
                assert from_address(outside, ip, node.backend.ips[family], "/", 8080) == DROPPED
                assert dropped(node, "spoofed") > before
            finally:
                outside.run(["ip", "addr", "del", f"{ip}/{length}", "dev", "lo"], check=True)
        assert node.webs["backend"].seen == []


NEAR = "fromCIDR: [198.51.100.0/24, 2001:db8:4::/48]"
NOT_ALL = (
    "fromCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.4/32]}, "
    "{cidr: '2001:db8:4::/48', except: ['2001:db8:4::4/128']}]"
)
ONE = "fromCIDR: [198.51.100.4/32, '2001:db8:4::4/128']"


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
class TestAddressesThatOtherPrefixesSpeakOf:
    """Envoy asks once who a client is. What lives must not go on by rules that are not about it any more."""

    @pytest.fixture(autouse=True)
    def neighbours_know_each_other(self, node: LiveNode, outside: Outside, family: int) -> None:
        node.becomes(OK, lambda: fetch(outside, node.api.ips[family], 80, "/public", patience=GLANCE))

    def test_what_is_allowed_less_loses_its_connection(self, node: LiveNode, outside: Outside, family: int) -> None:
        near, api = NEARBY[family], node.api.ips[family]
        try:
            with Line(outside, api, 80, source=near) as line, Line(outside, api, 80) as others:
                assert str(line.ask("/near")) == str(others.ask("/public")) == OK
                node.write("one", policy("one", ONE, ', rules: {http: [{path: "/one"}]}'))
                node.becomes(OK, lambda: from_address(outside, near, api, "/one"))
                assert str(others.ask("/public")) == OK
            # What begins in the moment of a change may count as begun before it. With the next change it is over.
            node.write("one", policy("one", ONE, ', rules: {http: [{path: "/one"}, {path: "/then"}]}'))
            node.becomes(OK, lambda: from_address(outside, near, api, "/then"))
            with Line(outside, api, 80, source=near) as line:
                assert str(line.ask("/near")) == str(line.ask("/one")) == OK
                node.write("cidr", policy("cidr", NOT_ALL, ', rules: {http: [{path: "/near"}]}'))
                node.becomes(DENIED, lambda: from_address(outside, near, api, "/near"))
                assert str(line.ask("/one")) == OK, "it is who it was, and its rules are in force"
                assert str(line.ask("/near")) == DENIED
        finally:
            (node.policies / "one.yaml").unlink(missing_ok=True)
            node.write("cidr", policy("cidr", NEAR, ', rules: {http: [{path: "/near"}]}'))
        node.becomes(OK, lambda: from_address(outside, near, api, "/near"))
        node.becomes(DENIED, lambda: from_address(outside, near, api, "/one"))

    def test_all_at_once(self, node: LiveNode, outside: Outside, family: int) -> None:
        near, api = NEARBY[family], node.api.ips[family]
        both = policy("cidr", NOT_ALL, ', rules: {http: [{path: "/near"}]}')
        both += "---\n" + policy("one", ONE, ', rules: {http: [{path: "/one"}]}')
        try:
            with Line(outside, api, 80, source=near) as line, Line(outside, api, 80) as others:
                assert str(line.ask("/near")) == str(others.ask("/public")) == OK
                node.write("cidr", both)
                node.becomes(OK, lambda: from_address(outside, near, api, "/one"))
                assert str(line.ask("/near")) == CLOSED
                assert str(others.ask("/public")) == OK
        finally:
            node.write("cidr", policy("cidr", NEAR, ', rules: {http: [{path: "/near"}]}'))
        node.becomes(OK, lambda: from_address(outside, near, api, "/near"))

    def test_what_is_allowed_as_before_goes_on_until_it_is_not(
        self, node: LiveNode, outside: Outside, family: int
    ) -> None:
        near, api = NEARBY[family], node.api.ips[family]
        elsewhere = policy("one", ONE, ', rules: {http: [{path: "/"}]}', app="backend").replace('"80"', '"8081"')
        try:
            with Line(outside, api, 80, source=near) as line:
                assert str(line.ask("/near")) == OK
                known = identities(node)
                node.write("one", elsewhere)
                node.until("it has another identity", lambda: identities(node) != known)
                assert str(line.ask("/near")) == OK, "the rules about it are the same"
                node.write("cidr", policy("cidr", NOT_ALL, ', rules: {http: [{path: "/near"}]}'))
                node.becomes(DENIED, lambda: from_address(outside, near, api, "/near"))
                assert str(line.ask("/near")) == CLOSED
        finally:
            (node.policies / "one.yaml").unlink(missing_ok=True)
            node.write("cidr", policy("cidr", NEAR, ', rules: {http: [{path: "/near"}]}'))
        node.becomes(OK, lambda: from_address(outside, near, api, "/near"))


def identities(node: LiveNode) -> object:
    return node.lockgate("identity", "list", "-o", "json").data


def dropped(node: LiveNode, reason: str) -> int:
    counters = node.lockgate("datapath", "status", "-o", "json").data["counters"]
    return sum(each["packets"] for each in counters if each["reason"] == reason)


def test_the_uplink_outlives_the_agent_and_the_next_one_adopts_it(node: LiveNode, outside: Outside) -> None:
    links = node.settings.pin_dir / "links"
    with Line(outside, node.api.ipv4, 80) as line:
        assert str(line.ask("/public")) == OK
        held = {path.name for path in links.iterdir()}
        node.end_agent(signal.SIGKILL)
        assert str(line.ask("/public")) == OK
        assert str(line.ask("/near")) == DENIED
        assert fetch(outside, node.api.ipv4, 80, "/near") == DENIED
        node.start_agent()
        assert {path.name for path in links.iterdir()} == held
        assert str(line.ask("/public")) == OK
        assert fetch(outside, node.api.ipv6, 80, "/near") == DENIED
    assert node.webs["api-server"].clients() <= {str(ip) for ip in outside.ips}


def test_without_an_uplink_requests_from_outside_are_dropped(node: LiveNode, outside: Outside) -> None:
    config = node.folder / "config.yaml"
    config.write_text("uplinks: []\n")
    node.end_agent()
    node.start_agent("--config", config)
    try:
        node.until("there is none", lambda: node.status()["datapath"]["uplinks"] == 0)
        assert fetch(outside, node.api.ipv4, 80, "/public", patience=GLANCE) == DROPPED
        assert fetch(outside, node.backend.ipv4, 8080) == OK
        assert node.webs["api-server"].seen == []
        config.write_text(f"uplinks: [{UPLINK}, eth7]\n")
        node.end_agent()
        node.start_agent("--config", config, ready=False)
        node.becomes(OK, lambda: fetch(outside, node.api.ipv4, 80, "/public", patience=GLANCE))
        node.until("it is told", lambda: any("uplink eth7 is no interface" in each for each in node.problems()))
        assert node.lockgate("datapath", "status", "-o", "json").data["uplinks"] == [UPLINK]
    finally:
        node.end_agent()
        node.start_agent()


def test_an_uplink_that_comes_later_is_found(node: LiveNode, outside: Outside) -> None:
    node.node.run(["ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1"], check=True)
    node.node.run(["ip", "link", "set", "late0", "up"], check=True)
    node.node.run(["ip", "link", "set", "late1", "up"], check=True)
    node.node.run(["ip", "route", "add", "203.0.113.0/24", "dev", "late0"], check=True)
    node.until("both of its ends are attached", lambda: node.status()["datapath"]["uplinks"] == 3)
    node.node.run(["ip", "link", "del", "late0"], check=True)
    node.until("it is gone", lambda: node.status()["datapath"]["uplinks"] == 1)
    node.until("nothing is wrong", node.ok)
