from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.identity import IPNetwork
from lockgate.xds.matcher import OnMatch
from lockgate.xds.peers import PrefixIndex

UNKNOWN = OnMatch(b"unknown")


@st.composite
def prefixes(draw: st.DrawFn) -> IPv4Network:
    length = draw(st.sampled_from([0, 1, 8, 24, 28, 30, 31, 32]))
    return IPv4Network((draw(st.integers(0, 63)) << draw(st.sampled_from([0, 2, 8, 26])), length), strict=False)


@settings(deadline=None)
@given(
    st.dictionaries(prefixes(), st.integers(1, 4), max_size=12),
    st.sets(st.integers(1, 4)),
    st.lists(st.sampled_from([UNKNOWN, OnMatch(b"a"), OnMatch(b"b")]), min_size=5, max_size=5),
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 255), min_size=1),
)
def test_few_entries_say_what_the_whole_cache_says(
    ipcache: dict[IPNetwork, int], special: set[int], verdicts: list[OnMatch], addresses: list[int]
) -> None:
    def verdict(identity: int | None) -> OnMatch:
        return verdicts[identity] if identity in special and identity is not None else verdicts[0]

    entries = PrefixIndex(ipcache, 4).entries(special, verdict, UNKNOWN)
    sent = {network: on_match for on_match, networks in entries.items() for network in networks}
    assert len(sent) == sum(len(networks) for networks in entries.values())

    def longest(address: IPv4Address, table: dict[IPNetwork, OnMatch]) -> OnMatch:
        holding = [network for network in table if address in network]
        return table[max(holding, key=lambda network: network.prefixlen)] if holding else UNKNOWN

    whole = {network: verdict(identity) for network, identity in ipcache.items()}
    for address in [*map(IPv4Address, addresses), *(IPv4Address(int(network.network_address)) for network in ipcache)]:
        assert longest(address, sent) == longest(address, whole)


def test_three_pods_cost_three_entries() -> None:
    ipcache: dict[IPNetwork, int] = {ip_network("0.0.0.0/0"): 9, ip_network("::/0"): 10}
    ipcache |= {IPv4Network((0x0A000000 + pod, 32)): 1000 + pod % 100 for pod in range(300)}
    entries = PrefixIndex(ipcache, 4).entries({1007}, lambda one: OnMatch(b"yes") if one else UNKNOWN, UNKNOWN)
    assert {len(networks) for networks in entries.values()} == {3}


def test_the_other_family_is_not_there() -> None:
    ipcache: dict[IPNetwork, int] = {ip_network("0.0.0.0/0"): 9, IPv6Network("fd00::/8"): 500}
    entries = PrefixIndex(ipcache, 6).entries({500, 9}, lambda one: OnMatch(b"yes"), UNKNOWN)
    assert entries == {OnMatch(b"yes"): [IPv6Network("fd00::/8")]}
