from __future__ import annotations

import re
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.identity import IPNetwork
from lockgate.policies.service import Backend, Frontend
from lockgate.redirect import layout
from lockgate.redirect.alias import Slot
from lockgate.redirect.plan import Effect, EndpointPolicies, Owner, PolicyKey, Verdict
from lockgate.redirect.port_prefix import PortPrefix
from lockgate.redirect.reason import Reason

words = st.integers(0, 2**32 - 1)
effects = st.builds(Effect, st.sampled_from(Verdict), st.integers(0, 65535))
prefixes = st.builds(
    lambda length, port: PortPrefix(24, 6 << 16 | port).cut(length), st.integers(8, 24), words.map(lambda n: n & 0xFFFF)
)
networks = st.builds(lambda bits, length: ip_network((bits, length), strict=False), words, st.integers(0, 32))


@given(st.builds(PolicyKey, words, words, prefixes), effects)
def test_policy_entries_survive(key: PolicyKey, effect: Effect) -> None:
    codec = layout.POLICY
    assert codec.decode_key(codec.encode_key(key)) == key
    assert codec.decode_value(codec.encode_value(effect)) == effect


@given(networks, words, words)
def test_owners_survive(network: IPNetwork, identity: int, ifindex: int) -> None:
    codec = layout.IPCACHE
    assert codec.decode_key(codec.encode_key(network)) == network
    assert codec.decode_value(codec.encode_value(Owner(identity, ifindex))) == Owner(identity, ifindex)


@pytest.mark.parametrize("text", ["::/0", "fd00:200::/64", "fd00::1/128", "::ffff:0:0/90"])
def test_ipv6_prefixes_survive(text: str) -> None:
    network = ip_network(text, strict=False)
    assert layout.IPCACHE.decode_key(layout.IPCACHE.encode_key(network)) == network


def test_endpoints_survive() -> None:
    codec = layout.ENDPOINTS
    assert codec.decode_key(codec.encode_key(7)) == 7
    assert codec.decode_value(codec.encode_value(EndpointPolicies(1, 2))) == EndpointPolicies(1, 2)


def test_a_policy_key_counts_the_bits_before_the_ports() -> None:
    """length, policy and identity as the machine's words; a zero byte, protocol and port in network order."""
    encoded = layout.POLICY.encode_key(PolicyKey(0x01020304, 0x0A0B0C0D, PortPrefix(24, 6 << 16 | 8080)))
    assert encoded[12:] == b"\x00\x06\x1f\x90"
    assert int.from_bytes(encoded[:4], "little") == 96


def test_ipv4_is_mapped_into_ipv6() -> None:
    encoded = layout.IPCACHE.encode_key(ip_network("10.0.0.0/8"))
    assert encoded == (104).to_bytes(4, "little") + bytes(10) + b"\xff\xff\x0a\x00\x00\x00"


addresses = st.one_of(st.builds(IPv4Address, words), st.builds(lambda n: IPv6Address((0xFD << 120) + n), words))
ports = st.integers(1, 65535)
frontends = st.builds(Frontend, addresses, ports, st.sampled_from([Protocol.TCP, Protocol.UDP]))
backends = st.builds(Backend, addresses, ports)


@given(frontends, backends, backends, words, words)
def test_services_survive(frontend: Frontend, own: Backend, other: Backend, number: int, share: int) -> None:
    codec, serving, slots = layout.SERVICE_FRONTENDS, layout.SERVICE_BACKENDS, layout.SERVICE_SLOTS
    for key in (frontend, frontend.ip):
        assert codec.decode_key(codec.encode_key(key)) == key
    assert codec.decode_value(codec.encode_value(layout.Table(number, share))) == (number, share)
    entry = layout.Serving(frontend, own)
    assert serving.decode_key(serving.encode_key(entry)) == entry
    assert slots.decode_value(slots.encode_value(Slot(share, own, other))) == (share, own, other)
    sizes = [layout.SIZES[each.name] for each in (codec, serving, slots)]
    assert [size for size, _ in sizes] == [len(codec.encode_key(frontend)), len(serving.encode_key(entry)), 8]
    assert sizes[2][1] == len(slots.encode_value(Slot(share, own, other)))


def test_reasons_are_those_of_the_programs() -> None:
    text = files("lockgate.bpf").joinpath("reason.h").read_text()
    listed = dict(re.findall(r"^ +(?:DROP_)?([A-Z_]+) = (\d+)", text, re.MULTILINE))
    assert int(listed.pop("REASONS")) == len(Reason)
    assert {name: int(number) for name, number in listed.items()} == {reason.name: reason.value for reason in Reason}
    assert all(reason.text for reason in Reason)
