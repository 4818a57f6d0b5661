from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import LAST_PORT, PortSpan, Protocol
from lockgate.redirect.port_prefix import EVERYTHING, WHOLE, PortPrefix, exact, split

ports = st.integers(0, LAST_PORT)


def covered(prefix: PortPrefix) -> range:
    return range(prefix.port, prefix.port + (1 << (WHOLE - prefix.length)))


@given(ports, ports)
def test_a_span_is_split_into_exactly_its_ports(one: int, other: int) -> None:
    span = PortSpan(Protocol.TCP, min(one, other), max(one, other))
    prefixes = list(split(span))
    assert len(prefixes) <= 30
    assert [port for prefix in prefixes for port in covered(prefix)] == list(range(span.first, span.last + 1))


def test_every_port_is_the_protocol() -> None:
    assert list(split(PortSpan(Protocol.UDP, 0, LAST_PORT))) == [PortPrefix(8, 17 << 16)]


def test_covering_prefixes_come_longest_first_and_end_with_everything() -> None:
    found = list(exact(Protocol.TCP, 0xFFFF).covering())
    assert [prefix.length for prefix in found] == [*range(23, 7, -1), 0]
    assert found[-1] == EVERYTHING
    assert found[0] == PortPrefix(23, 6 << 16 | 0xFFFE)
    assert list(EVERYTHING.covering()) == []


@given(ports, st.integers(8, WHOLE))
def test_a_prefix_covers_what_it_was_cut_from(port: int, length: int) -> None:
    cut = exact(Protocol.SCTP, port).cut(length)
    assert cut.protocol == 132
    assert port in covered(cut)
    assert length == WHOLE or cut in exact(Protocol.SCTP, port).covering()
