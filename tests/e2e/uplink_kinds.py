"""How a node may hang on its network: the interfaces between it and the world outside, of every kind."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from lockgate.agent.playground import Namespace, Outside
from lockgate.redirect.kernel import netns
from pyroute2 import WireGuard

NODE_IPS = ("192.0.2.1", "2001:db8::1")
OUTSIDE_IPS = ("192.0.2.9", "2001:db8::9")
PODS = ("10.200.0.0/16", "fd00:200::/64")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x0001, 0x0002, 0x1000


@dataclass(frozen=True)
class Kind:
    """Lines for `ip -batch` on top of two cables, `nic0` and `nic1` in the node, `port0` and `port1` outside; and what
    has the addresses in the end. `table`: where the node has its routes."""

    node: str = ""
    outside: str = ""
    top: str = "nic0"
    outside_top: str = "port0"
    table: str = "main"


def _tunnel(kind: str) -> Kind:
    """Inside of another one's packets, between addresses of the cable."""
    made = "addr add 198.18.0.{0}/24 dev {2}\nlink add top type {3} local 198.18.0.{0} remote 198.18.0.{1}"
    return Kind(made.format(1, 2, "nic0", kind), made.format(2, 1, "port0", kind), "top", "top")


_SWITCH = "link add switch type bridge\nlink set port0 master switch\nlink set port1 master switch"
_BOND = (
    "link add bond0 type bond mode active-backup miimon 20\n"
    "link set nic0 down\nlink set nic1 down\nlink set nic0 master bond0\nlink set nic1 master bond0"
)
_TAGGED = "link add link {0} name {1} type vlan id 7"
KINDS: Mapping[str, Kind] = {
    "card": Kind(),
    "routes in a table of their own": Kind(table="300"),
    "bridge": Kind("link add br0 type bridge\nlink set nic0 master br0", top="br0"),
    "macvlan": Kind("link add mac0 link nic0 type macvlan mode bridge", top="mac0"),
    "vxlan": _tunnel("vxlan id 7 dstport 4789"),
}
# Those that not every kernel has, by the type that it must know.
MORE_KINDS: Mapping[str, tuple[str, Kind]] = {
    "bond": ("bond", Kind(_BOND, _SWITCH, "bond0", "switch")),
    "vlan": (
        "vlan",
        Kind(_TAGGED.format("nic0", "nic0.7"), _TAGGED.format("port0", "port0.7"), "nic0.7", "port0.7"),
    ),
    "vlan on a bond": (
        "bond",
        Kind(
            f"{_BOND}\n{_TAGGED.format('bond0', 'bond0.7')}",
            f"{_SWITCH}\n{_TAGGED.format('switch', 'switch.7')}",
            "bond0.7",
            "switch.7",
        ),
    ),
}


def known(kind: str) -> bool:
    """Whether this kernel has interfaces of the type."""
    return Path("/sys/module", _MODULES.get(kind, kind)).is_dir()


_MODULES = {"bond": "bonding", "vlan": "8021q"}


@contextmanager
def laid(kind: Kind, node: Namespace, outside: Outside) -> Iterator[str]:
    """An uplink of the kind, and none besides, while it lasts; the name of the interface with the node's addresses."""
    _batch(node, "\n".join(f"link add nic{n} type veth peer name port{n} netns {outside.netns}" for n in (0, 1)))
    before = {namespace: _interfaces(namespace) for namespace in (node, outside)}
    try:
        for namespace, lines, own in ((node, kind.node, "nic"), (outside, kind.outside, "port")):
            _batch(namespace, lines)
            made = sorted(_interfaces(namespace) - before[namespace])
            _batch(namespace, "\n".join(f"link set {each} up" for each in [f"{own}0", f"{own}1", *made]))
        address(node, outside, kind.top, kind.outside_top, kind.table)
        yield kind.top
    finally:
        for namespace in (node, outside):
            for each in _interfaces(namespace) - before[namespace]:
                namespace.run(["ip", "link", "del", each])
        for number in (0, 1):
            node.run(["ip", "link", "del", f"nic{number}"])
        _no_rules(node)


def address(node: Namespace, outside: Namespace, top: str, outside_top: str, table: str = "main") -> None:
    """Gives both ends their addresses and routes."""
    for family, (own, other, pods, length) in enumerate(zip(NODE_IPS, OUTSIDE_IPS, PODS, (24, 64), strict=True)):
        flag = f"-{(4, 6)[family]}"
        nodad = "nodad" if family else ""
        prefix = ("192.0.2.0/24", "2001:db8::/64")[family]
        _batch(outside, f"addr add {other}/{length} dev {outside_top} {nodad}\nroute add {pods} via {own}", flag)
        quiet = "noprefixroute" if table != "main" else ""
        _batch(node, f"addr add {own}/{length} dev {top} {nodad} {quiet}", flag)
        if family:  # with it a router asks for the neighbour of what it forwards
            _batch(node, f"addr add fe80::1/64 dev {top} nodad", flag)
        if table != "main":
            _batch(node, f"route add {prefix} dev {top} table {table}\nrule add pref 40000 lookup {table}", flag)
        _batch(node, f"route add default via {other} dev {top} table {table}", flag)


@contextmanager
def laid_by_hand(tap: bool, node: Namespace, outside: Namespace) -> Iterator[str]:
    """Two tun interfaces (or tap), between which a thread carries what they are given."""
    ends = [netns.run_in(each.path, lambda: _tun(tap)) for each in (node, outside)]
    over, end = os.pipe()
    relay = threading.Thread(target=_carry, args=(ends, over))
    relay.start()
    try:
        for each in (node, outside):
            _batch(each, "link set tun0 up")
        address(node, outside, "tun0", "tun0")
        yield "tun0"
    finally:
        os.close(end)
        relay.join()
        for fd in (*ends, over):
            os.close(fd)


@contextmanager
def laid_in_wireguard(node: Namespace, outside: Namespace) -> Iterator[str]:
    """A tunnel over the cable, encrypted. Its UDP port is that of VXLAN."""
    keys = [X25519PrivateKey.generate() for _ in range(2)]
    ends = ((node, "nic0", "198.18.0.1"), (outside, "port0", "198.18.0.2"))
    _batch(node, f"link add nic0 type veth peer name port0 netns {outside.netns}")
    try:
        for (where, cable, own), key, other, (_, _, there) in zip(
            ends, keys, reversed(keys), reversed(ends), strict=True
        ):
            lines = f"link set {cable} up\naddr add {own}/24 dev {cable}\nlink add top type wireguard\nlink set top up"
            _batch(where, lines)
            peer = {
                "public_key": b64encode(other.public_key().public_bytes_raw()).decode(),
                "endpoint_addr": there,
                "endpoint_port": 4789,
                "allowed_ips": ["0.0.0.0/0", "::/0"],
            }
            netns.run_in(where.path, lambda key=key, peer=peer: _join(key, peer))  # type: ignore[misc]
        address(node, outside, "top", "top")
        yield "top"
    finally:
        node.run(["ip", "link", "del", "nic0"])
        for where in (node, outside):
            where.run(["ip", "link", "del", "top"])


def _join(key: X25519PrivateKey, peer: Mapping[str, object]) -> None:
    with WireGuard() as guard:
        guard.set("top", private_key=b64encode(key.private_bytes_raw()).decode(), listen_port=4789, peer=peer)


def _tun(tap: bool) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = (_IFF_TAP if tap else _IFF_TUN) | _IFF_NO_PI
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tun0", flags))
    return fd


def _carry(ends: list[int], over: int) -> None:
    others = {ends[0]: ends[1], ends[1]: ends[0]}
    while True:
        ready, _, _ = select.select([*ends, over], [], [])
        if over in ready:
            return
        for fd in ready:
            try:
                os.write(others[fd], os.read(fd, 1 << 16))
            except OSError:  # the other one is down
                continue


def _interfaces(namespace: Namespace) -> frozenset[str]:
    lines = namespace.run(["ip", "-o", "link"], check=True).stdout.splitlines()
    return frozenset(line.split(": ")[1].split("@")[0] for line in lines)


def _no_rules(node: Namespace) -> None:
    for flag in ("-4", "-6"):
        node.run(["ip", flag, "rule", "del", "pref", "40000"])


def _batch(namespace: Namespace, lines: str, flag: str = "-4") -> None:
    done = namespace.run(["ip", flag, "-batch", "-"], input=lines + "\n")
    assert done.returncode == 0, f"{lines}\n{done.stderr}"
