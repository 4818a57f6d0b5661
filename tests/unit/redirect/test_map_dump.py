"""Map keys in words."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import PortSpan, Protocol
from lockgate.redirect.kernel.map_dump import ports_in_words
from lockgate.redirect.port_prefix import EVERYTHING, PortPrefix, split


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (PortSpan(Protocol.TCP, 80, 80), ["80/TCP"]),
        (PortSpan(Protocol.UDP, 0, 65535), ["any/UDP"]),
        (PortSpan(Protocol.TCP, 8000, 8003), ["8000-8003/TCP"]),
        (PortSpan(Protocol.TCP, 8001, 8003), ["8001/TCP", "8002-8003/TCP"]),
    ],
)
def test_prefixes_are_told_as_ports(span: PortSpan, words: list[str]) -> None:
    assert sorted(map(ports_in_words, split(span))) == words


def test_everything_and_a_protocol_without_a_name() -> None:
    assert ports_in_words(EVERYTHING) == "any"
    assert ports_in_words(PortPrefix(24, 99 << 16 | 7)) == "7/99"
