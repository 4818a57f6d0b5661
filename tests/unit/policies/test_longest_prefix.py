from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.identity import IPNetwork
from lockgate.policies.longest_prefix import LongestPrefix

addresses = st.one_of(
    st.integers(0, 31).map(lambda number: IPv4Address(0x0A000000 | number)),
    st.integers(0, 31).map(lambda number: IPv6Address((0xFD << 120) | number)),
)
prefixes = st.builds(
    lambda address, length: ip_network((address, length if address.version == 4 else 96 + length), strict=False),
    addresses,
    st.sampled_from([0, 8, 27, 28, 30, 31, 32]),
)


@given(st.frozensets(prefixes, max_size=8), addresses)
def test_the_longest_one_that_holds_the_address_is_found(
    networks: frozenset[IPNetwork], address: IPv4Address | IPv6Address
) -> None:
    holding = [network for network in networks if network.version == address.version and address in network]
    expected = max(holding, key=lambda network: network.prefixlen, default=None)
    assert LongestPrefix(dict.fromkeys(networks)).find(address) == expected


def test_nothing_is_found_in_nothing() -> None:
    assert LongestPrefix({}).find(ip_address("fd00::1")) is None
