"""What the node translates, and what its firewall sees."""

from __future__ import annotations

import json
import os
import socket

import pytest
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.datapath_node import L4, PATIENCE, SHUT, Node, ask, connect, ingress
from lockgate.tests.e2e.host_routing.ground import (
    FAMILIES,
    PORT,
    nft,
    run,
    through_stack,
)

TRANSLATION = """
table ip nat {
  chain pre { type nat hook prerouting priority dstnat; %s; }
  chain post { type nat hook postrouting priority srcnat; %s; }
}
"""
ELSEWHERE = "10.200.77.77"  # nobody's address


@pytest.mark.parametrize(
    ("pre", "post", "asked"),
    [
        (f"tcp dport 81 dnat to :{L4}", "", (None, 81)),
        ("", f"tcp dport {L4} masquerade", (None, L4)),
        (f"ip daddr {ELSEWHERE} dnat to SERVER", "", (ELSEWHERE, L4)),
    ],
    ids=["another port", "another source", "another address"],
)
def test_what_the_node_translates_goes_through_its_stack(
    node: Node, pre: str, post: str, asked: tuple[str | None, int]
) -> None:
    nft(node, TRANSLATION % (pre.replace("SERVER", str(node.server.ipv4)), post))
    try:
        with (
            through_stack(node, node.server) as there,
            through_stack(node, node.client) as back,
            connect(node.client, asked[0] or node.server.ipv4, asked[1]) as live,
        ):
            for _ in range(5):
                ask(live)
            there.passed(), back.passed()
            body = os.urandom(100_000)
            assert ask(live, body) == body
            assert len(there.passed(L4)) > 1
            assert len(back.passed(asked[1])) > 1
    finally:
        nft(node, "flush ruleset")


def test_a_connection_that_comes_out_as_another(node: Node) -> None:
    """Of two with the same client's port, each arrives as the other was sent."""
    nft(node, TRANSLATION % (f"tcp dport {L4} dnat to :{SHUT}; tcp dport {SHUT} dnat to :{L4}", ""))

    def both() -> list[socket.socket]:
        made = [socket.socket(), socket.socket()]
        for each, port in zip(made, (L4, SHUT), strict=True):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.settimeout(PATIENCE)
            each.bind((str(node.client.ipv4), PORT))
            each.connect((str(node.server.ipv4), port))
        return made

    try:
        one, other = netns.run_in(node.client.path, both)
        with one, other, through_stack(node, node.server) as stack:
            for _ in range(5):
                for live in (one, other):
                    stack.passed()
                    ask(live, os.urandom(1000))
                    assert stack.passed(PORT) != []
    finally:
        nft(node, "flush ruleset")


FIREWALL = """
table inet firewall {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established counter accept
    tcp dport %d accept
  }
}
"""


@FAMILIES
def test_a_firewall_that_follows_connections_sees_their_ends(node: Node, family: int) -> None:
    nft(node, FIREWALL % L4)
    try:
        body = os.urandom(3_000_000)
        with connect(node.client, node.server.ips[family], L4) as live:
            assert ask(live, body) == body
            node.enforce(stranger=ingress())
            assert ask(live, body) == body
            live.shutdown(socket.SHUT_WR)
            assert live.recv(1) == b""
        state = run(node.ground.node, "nft", "-j", "list", "chain", "inet", "firewall", "forward")
        counters = [
            part["counter"]["packets"]
            for each in json.loads(state)["nftables"]
            if "rule" in each
            for part in each["rule"]["expr"]
            if "counter" in part
        ]
        assert counters[0] == 0, "nothing is invalid"
        assert 0 < counters[1] < 60, "and few packets are seen"
    finally:
        nft(node, "flush ruleset")
