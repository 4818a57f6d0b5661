"""Ways round the policy by what TCP lets one do, tried from a real pod with raw packets; docs/security.md has a table.

`arrives` looks at the server pod's own capture: an attack has failed when nothing of it is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from lockgate.tests.e2e import wire
from lockgate.tests.e2e.field import L7, SHUT, Field, field, pair
from lockgate.tests.e2e.wire import ACK, FIN, PSH, RST, SYN, TCP, URG, ip

REQUEST = b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n"
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field() as made:
        yield made


SYN_OPTIONS = {
    "data": b"",
    "fast open cookie": b"\x22\x0a" + b"cookie!!" + b"\x01\x01",
    "fast open request": b"\x22\x02\x01\x01",
    "experimental fast open": b"\xfe\x0c\xf9\x89" + b"cookie!!",
    "multipath": b"\x1e\x0c\x01\x01" + b"keykeyke",
}


@FAMILIES
@pytest.mark.parametrize("option", SYN_OPTIONS)
def test_data_in_the_first_segment(ground: Field, family: int, option: str) -> None:
    client, server = ground.ends(family)
    port = ground.port()
    segment = wire.tcp(client, server, port, L7, data=REQUEST, options=SYN_OPTIONS[option])
    assert ground.arrives(ground.frontend, [ip(client, server, TCP, segment)], [REQUEST, pair(port, L7)]) == []
    assert REQUEST not in ground.record.everything()


FLAGS = {
    "none": 0,
    "all": 0x3F,
    "xmas": FIN | PSH | URG,
    "fin": FIN,
    "syn fin": SYN | FIN,
    "syn rst": SYN | RST,
    "syn ack": SYN | ACK,
    "syn fin ack": SYN | FIN | ACK,
    "ack": ACK,
    "psh ack": PSH | ACK,
    "rst": RST,
    "rst ack": RST | ACK,
    "ecn": SYN | 0xC0,
}


@FAMILIES
@pytest.mark.parametrize("there", [L7, SHUT])
@pytest.mark.parametrize("flags", FLAGS)
def test_odd_flags(ground: Field, family: int, flags: str, there: int) -> None:
    client, server = ground.ends(family)
    port = ground.port()
    packets = [
        ip(client, server, TCP, wire.tcp(client, server, port, there, FLAGS[flags], ack=ack, data=data))
        for ack in (0, 77)
        for data in (b"", REQUEST)
    ]
    assert ground.arrives(ground.frontend, packets, [pair(port, there)]) == []
    assert REQUEST not in ground.record.everything()


@FAMILIES
def test_simultaneous_open(ground: Field, family: int) -> None:
    """The server's pod sends a SYN from its policed port (its egress is open); the client answers with a SYN of its
    own, which is a new connection and judged as one: the request goes to Envoy."""
    client, server = ground.ends(family)
    port = ground.port()
    before = ground.counted("redirected")
    ground.wire(ground.server).send(ip(server, client, TCP, wire.tcp(server, client, L7, port)))
    packets = [
        ip(client, server, TCP, wire.tcp(client, server, port, L7, flags, seq=seq, ack=ack, data=data))
        for flags, seq, ack, data in (
            (SYN, 1000, 0, b""),
            (SYN, 1000, 0, REQUEST),
            (SYN | ACK, 1000, 1001, b""),
            (PSH | ACK, 1001, 1001, REQUEST),
        )
    ]
    assert ground.arrives(ground.frontend, packets, [REQUEST, pair(port, L7)]) == []
    assert ground.counted("redirected") > before


@FAMILIES
def test_segments_out_of_order_on_a_connection_through_envoy(ground: Field, family: int) -> None:
    """Whatever the sequence numbers: what belongs to the client's ports goes to Envoy's socket, which knows its own."""
    client, server = ground.ends(family)
    capture = ground.wire(ground.server)
    with ground.connect(family) as connection:
        capture.received()
        connection.sendall(b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        mine = connection.getsockname()[1]
        frames = [frame for frame in capture.received() if b"/allowed" in frame]
        start = 14 + (20 if family == 0 else 40)
        theirs, dport, seq, ack = struct.unpack_from("!HHII", frames[0], start)
        assert (dport, theirs != mine) == (L7, True)
        for port in (mine, theirs):  # the client's leg, and the ports that Envoy has taken on the client's address
            for number in (seq, seq + 40, 0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF):
                for flags in (ACK, PSH | ACK, FIN | ACK, RST, RST | ACK):
                    segment = wire.tcp(client, server, port, L7, flags, seq=number, ack=ack, data=REQUEST)
                    assert ground.arrives(ground.frontend, [ip(client, server, TCP, segment)], [REQUEST]) == []
    assert REQUEST not in ground.record.everything()


@FAMILIES
def test_a_connection_through_envoy_when_its_ports_are_guessed_by_another(ground: Field, family: int) -> None:
    client, server = ground.ends(family)
    with ground.connect(family) as connection:
        port = connection.getsockname()[1]
        segment = wire.tcp(client, server, port, L7, PSH | ACK, data=REQUEST)
        assert ground.arrives(ground.intruder, [ip(client, server, TCP, segment)], [REQUEST]) == []
        reset = wire.tcp(client, server, port, L7, RST | ACK)
        assert ground.arrives(ground.intruder, [ip(client, server, TCP, reset)], [pair(port, L7)]) == []
        connection.sendall(b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
