"""The table of addresses for Envoys without the kernel's map; that Envoy goes by it is tested in e2e."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from lockgate.policies.endpoint_policy import Direction
from lockgate.policies.identity import IPNetwork, Reserved
from lockgate.xds.compile.address_table import TABLES, address_tables
from lockgate.xds.compile.end import end_text
from lockgate.xds.snapshot import FILTER_CONFIG
from lockgate.xds.wire import fields

IPCACHE: dict[IPNetwork, int] = {
    ip_network("0.0.0.0/0"): 9,
    ip_network("::/0"): 10,
    ip_network("10.0.0.0/8"): 70_000,
    ip_network("10.0.0.1/32"): 80_000,
    ip_network("10.0.0.2/32"): 80_000,
    ip_network("10.0.0.3/32"): int(Reserved.HOST),
    ip_network("10.0.0.4/32"): 0,
    ip_network("fd00::1/128"): 80_001,
}


def below(message: bytes, *path: int) -> list[bytes]:
    """All submessages that are reached by these field numbers."""
    found = [message]
    for number in path:
        found = [value for each in found for field, value in fields(each, "") if field == number]  # type: ignore[misc]
    return found


def rows(body: bytes) -> dict[str, dict[str, str]]:
    """prefix -> filter state, read back from the bytes."""
    (found,) = below(body, 2, 2, 2, 2, 4, 2, 2)  # extension, Any, Composite.matcher, tree, custom_match, Any, IPMatcher
    read = {}
    for entry in below(found, 1):
        (config,) = below(entry, 2, 2, 2, 2, 1, 2, 2)  # OnMatch.action, Any, ExecuteFilterAction, extension, Any
        values = {
            key.decode(): below(value, 2, 5, 3)[0].decode() for value in below(config, 1) for key in below(value, 1)
        }
        for cidr in below(entry, 1):
            (address,), (wrapped,) = below(cidr, 1), below(cidr, 2)
            length = next((value for _, value in fields(wrapped, "") if isinstance(value, int)), 0)
            read[f"{address.decode()}/{length}"] = values
    return read


def test_each_end_is_who_its_longest_prefix_says() -> None:
    tables = {each.name: each for each in address_tables(IPCACHE, {ip_address("10.0.0.1"), ip_address("fd00::1")})}
    assert tables.keys() == set(TABLES.values())
    assert {each.type_url for each in tables.values()} == {FILTER_CONFIG}
    for direction, side in ((Direction.EGRESS, "source"), (Direction.INGRESS, "destination")):
        end = f"lockgate.{side}"
        assert rows(tables[TABLES[direction]].body) == {
            "0.0.0.0/0": {end: end_text(9, here=False)},
            "::/0": {end: end_text(10, here=False)},
            "10.0.0.0/8": {end: end_text(70_000, here=False)},
            "10.0.0.1/32": {end: end_text(80_000, here=True)},  # this node's own
            "10.0.0.2/32": {end: end_text(80_000, here=False)},  # a replica elsewhere
            "10.0.0.3/32": {end: end_text(Reserved.REMOTE_NODE, here=False)},  # the agent's host
            "10.0.0.4/32": {end: "nobody"},  # which no policy knows
            "fd00::1/128": {end: end_text(80_001, here=True)},
        }


def test_the_order_of_the_map_changes_nothing() -> None:
    turned = dict(reversed(IPCACHE.items()))
    assert address_tables(turned, set()) == address_tables(IPCACHE, set())
