"""A node and its pods out of network namespaces: what the demo, the end-to-end tests and the benches run on.

The node is a namespace of its own that routes between its pods like any plain router; nothing of the machine's own
network is touched. A pod hangs on a routed veth, as with a CNI without a bridge:

    lg-NAME (node)                                   lg-NAME-POD
    lo      10.200.0.1, fd00:200::1                  lo
    lgN-POD 169.254.1.1, fe80::1  ── veth ──  eth0   10.200.x.y/32, fd00:200::N/128, default via 169.254.1.1 / fe80::1

If asked for, the world is behind an uplink, where it is the node's default router and may have any address:

    uplink  192.0.2.1, 2001:db8::1, fe80::1  ── veth ──  eth0  192.0.2.9/24, 2001:db8::9/64, 10.200.0.0/16 via 192.0.2.1
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from pyroute2 import IPRoute

from ..envoy.running.run_files import start_ticks
from ..redirect.errors import NamespaceGoneError
from ..redirect.kernel import netns

NODE_IPV4 = IPv4Address("10.200.0.1")
NODE_IPV6 = IPv6Address("fd00:200::1")
OUTSIDE_IPV4 = IPv4Address("192.0.2.9")
OUTSIDE_IPV6 = IPv6Address("2001:db8::9")
UPLINK = "uplink"
UPLINK_IPV4 = IPv4Address("192.0.2.1")  # the node's
_UPLINK_IPV6 = "2001:db8::1"
_PODS_IPV4, _PODS_IPV6 = "10.200.0.0/16", "fd00:200::/64"
_HOP_IPV4 = "169.254.1.1"
_HOP_IPV6 = "fe80::1"
_FIRST_POD = 2  # .1 is the node
_SCOPE_LINK = 253
_IFA_F_NODAD = 0x02
_ROUTER_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/addr_gen_mode": "1",  # fe80::1 is the only link-local address of the host side
}
_POD_SYSCTLS = {
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv4/ip_unprivileged_port_start": "0",
}


@dataclass(eq=False)
class Namespace:
    """One named network namespace. Processes started here die with the playground."""

    netns: str
    _started: list[subprocess.Popen[Any]] = field(default_factory=list, repr=False)

    @property
    def path(self) -> Path:
        """Its file under /run/netns."""
        return netns.named(self.netns)

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` as a command that runs in this namespace. nsenter leaves /sys and the mounts as they are."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, argv)]

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a process here; nsenter becomes the command, so `.pid` is the command's own."""
        process = subprocess.Popen(self.command(argv), **options)
        self._started.append(process)
        return process

    def run(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end, with text output captured unless `options` say otherwise."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 30} | options
        completed: subprocess.CompletedProcess[str] = subprocess.run(self.command(argv), **settings)
        return completed

    def stop(self) -> None:
        """End what was started here and still runs."""
        _stop(self._started)


@dataclass(eq=False)
class Pod(Namespace):
    """A workload of the node. `interface`/`ifindex` are the node's side of its veth."""

    name: str = ""
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    ipv4: IPv4Address = NODE_IPV4
    ipv6: IPv6Address = NODE_IPV6
    interface: str = ""
    ifindex: int = 0

    @property
    def ips(self) -> tuple[IPv4Address, IPv6Address]:
        """Both addresses."""
        return self.ipv4, self.ipv6

    def workload(self) -> dict[str, Any]:
        """This pod as an entry of the workloads file."""
        entry: dict[str, Any] = {"name": self.name, "namespace": self.namespace, "labels": dict(self.labels)}
        entry |= {"netns": self.netns, "ips": [str(ip) for ip in self.ips]}
        if self.ports:
            entry["ports"] = dict(self.ports)
        return entry


@dataclass(eq=False)
class Outside(Namespace):
    """The world behind the node's uplink."""

    ips: tuple[IPv4Address, IPv6Address] = (OUTSIDE_IPV4, OUTSIDE_IPV6)

    def add_address(self, ip: IPv4Address | IPv6Address) -> None:
        """Another host or pod elsewhere; bind to `ip` to be it. The node reaches it through its default router."""
        netns.run_in(self.path, lambda: _add_address(str(ip), ip.max_prefixlen))


class Playground:
    """A node (`.node`) and the pods added to it. Close it, or use it as a context manager.

    `name`: small letters, digits and _, so that no playground's namespaces look like another's. Leftovers of a crashed
    run under the same name are swept first. Needs root.
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9_]{1,64}", name):
            raise ValueError(f"playground name {name!r} may hold only a-z, 0-9 and _")
        self.name = name
        self.pods: list[Pod] = []
        self._outside: Outside | None = None
        self._next = _FIRST_POD
        Playground.sweep(name)
        self.node = Namespace(f"lg-{name}")
        try:
            _make_namespace(self.node.netns)
            netns.run_in(self.node.path, _become_router)
        except BaseException:
            self.close()
            raise

    def pod(
        self,
        name: str,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
    ) -> Pod:
        """Add a pod; it can reach the node and every other pod when this returns."""
        number = self._next
        self._next += 1
        pod = Pod(
            netns=f"{self.node.netns}-{name}",
            name=name,
            namespace=namespace,
            labels=dict(labels or {}),
            ports=dict(ports or {}),
            ipv4=IPv4Address(int(IPv4Address("10.200.0.0")) + number),
            ipv6=IPv6Address(int(IPv6Address("fd00:200::")) + number),
            interface=f"lg{number}-{name}"[:15],
        )
        _make_namespace(pod.netns)
        netns.run_in(pod.path, lambda: _write_sysctls(_POD_SYSCTLS))
        pod.ifindex = netns.run_in(self.node.path, lambda: _add_host_side(pod))
        netns.run_in(pod.path, lambda: _configure_pod_side(pod))
        netns.run_in(self.node.path, lambda: _route_to(pod))
        self.pods.append(pod)
        return pod

    def outside(self) -> Outside:
        """The world, which is made when it is first asked for."""
        if self._outside is None:
            made = Outside(netns=f"{self.node.netns}-outside")
            _make_namespace(made.netns)
            netns.run_in(made.path, lambda: _write_sysctls(_POD_SYSCTLS))
            netns.run_in(self.node.path, lambda: _add_uplink(made))
            netns.run_in(made.path, _configure_outside)
            netns.run_in(self.node.path, _route_outside)
            self._outside = made
        return self._outside

    def remove(self, pod: Pod) -> None:
        """Take one pod away: its processes, its namespace and with it the veth."""
        _stop(pod._started)
        _remove_namespaces([pod.netns])
        self.pods.remove(pod)

    def workloads_yaml(self) -> str:
        """The pods as a workloads file."""
        return yaml.safe_dump({"workloads": [pod.workload() for pod in self.pods]}, sort_keys=False)

    def close(self) -> None:
        """Stop every process in the node and its pods and remove the namespaces."""
        outside = (self._outside,) if self._outside else ()
        _stop([process for namespace in (self.node, *self.pods, *outside) for process in namespace._started])
        self.pods.clear()
        Playground.sweep(self.name)

    @staticmethod
    def sweep(name: str) -> None:
        """Remove what a crashed run under `name` left: processes in its namespaces, then the namespaces."""
        _remove_namespaces(_namespaces_of(name))

    @staticmethod
    def kill(name: str) -> None:
        """Kill the processes in the namespaces of a playground, whoever made it; the namespaces stay."""
        _kill_inside(_cookies(_namespaces_of(name)))

    def __enter__(self) -> Playground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_namespace(name: str) -> None:
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RuntimeError(f"cannot make network namespace {name}: {made.stderr.strip()}; run as root")


def _write_sysctls(values: Mapping[str, str]) -> None:
    """/proc/sys/net shows the namespace of the thread that opens it."""
    for key, value in values.items():
        Path("/proc/sys/net", key).write_text(value)
    with IPRoute() as routes:
        routes.link("set", index=1, state="up")


def _become_router() -> None:
    _write_sysctls(_ROUTER_SYSCTLS)
    with IPRoute() as routes:
        routes.addr("add", index=1, address=str(NODE_IPV4), prefixlen=32)
        # Without NODAD the address is tentative for a moment, and no route may name it as its source.
        routes.addr("add", index=1, address=str(NODE_IPV6), prefixlen=128, flags=_IFA_F_NODAD)


def _add_host_side(pod: Pod) -> int:
    with IPRoute() as routes, pod.path.open("rb") as namespace:
        routes.link("add", ifname=pod.interface, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace.fileno()})
        index: int = routes.link_lookup(ifname=pod.interface)[0]
        routes.addr("add", index=index, address=_HOP_IPV4, prefixlen=32, scope=_SCOPE_LINK)
        routes.addr("add", index=index, address=_HOP_IPV6, prefixlen=64, flags=_IFA_F_NODAD)
        routes.link("set", index=index, state="up")
        return index


def _configure_pod_side(pod: Pod) -> None:
    with IPRoute() as routes:
        index: int = routes.link_lookup(ifname="eth0")[0]
        routes.link("set", index=index, state="up")
        routes.addr("add", index=index, address=str(pod.ipv4), prefixlen=32)
        routes.addr("add", index=index, address=str(pod.ipv6), prefixlen=128, flags=_IFA_F_NODAD)
        routes.route("add", dst=f"{_HOP_IPV4}/32", oif=index, scope=_SCOPE_LINK)
        routes.route("add", dst="default", gateway=_HOP_IPV4, oif=index)
        routes.route("add", dst="default", gateway=_HOP_IPV6, oif=index, family=10)


def _route_to(pod: Pod) -> None:
    with IPRoute() as routes:
        routes.route("add", dst=f"{pod.ipv4}/32", oif=pod.ifindex, scope=_SCOPE_LINK, prefsrc=str(NODE_IPV4))
        routes.route("add", dst=f"{pod.ipv6}/128", oif=pod.ifindex, prefsrc=str(NODE_IPV6), family=10)


def _add_uplink(outside: Outside) -> None:
    with IPRoute() as routes, outside.path.open("rb") as namespace:
        routes.link("add", ifname=UPLINK, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace.fileno()})
        index: int = routes.link_lookup(ifname=UPLINK)[0]
        routes.addr("add", index=index, address=str(UPLINK_IPV4), prefixlen=24)
        routes.addr("add", index=index, address=_UPLINK_IPV6, prefixlen=64, flags=_IFA_F_NODAD)
        # With it a router asks for the neighbour of what it forwards.
        routes.addr("add", index=index, address=_HOP_IPV6, prefixlen=64, flags=_IFA_F_NODAD)
        routes.link("set", index=index, state="up")


def _configure_outside() -> None:
    with IPRoute() as routes:
        index: int = routes.link_lookup(ifname="eth0")[0]
        routes.link("set", index=index, state="up")
        routes.addr("add", index=index, address=str(OUTSIDE_IPV4), prefixlen=24)
        routes.addr("add", index=index, address=str(OUTSIDE_IPV6), prefixlen=64, flags=_IFA_F_NODAD)
        routes.route("add", dst=_PODS_IPV4, gateway=str(UPLINK_IPV4), oif=index)
        routes.route("add", dst=_PODS_IPV6, gateway=_UPLINK_IPV6, oif=index, family=10)


def _route_outside() -> None:
    with IPRoute() as routes:
        routes.route("add", dst="default", gateway=str(OUTSIDE_IPV4))
        routes.route("add", dst="default", gateway=str(OUTSIDE_IPV6), family=10)


def _add_address(ip: str, length: int) -> None:
    with IPRoute() as routes:
        routes.addr("add", index=1, address=ip, prefixlen=length)


def _stop(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """Ask, wait up to two seconds for all of them together, then kill; reap every one."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + 2
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _remove_namespaces(names: Sequence[str]) -> None:
    _kill_inside(_cookies(names))
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _namespaces_of(name: str) -> list[str]:
    own = f"lg-{name}"
    try:
        found = [path.name for path in netns.NETNS_DIR.iterdir()]
    except FileNotFoundError:
        return []
    return [each for each in found if each == own or each.startswith(f"{own}-")]


def _cookies(names: Sequence[str]) -> set[tuple[int, int]]:
    found = set()
    for name in names:
        with suppress(NamespaceGoneError):
            found.add(netns.cookie(netns.named(name)))
    return found


def _kill_inside(cookies: set[tuple[int, int]]) -> None:
    """Kill the processes that live in these namespaces, and wait until they are gone (two seconds at most)."""
    victims: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            status = (entry / "ns/net").stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in cookies:
            victims.append(int(entry.name))
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + 2
    while victims and time.monotonic() < deadline:
        # Not zombies, which hold no namespace and only their parent can reap.
        victims = [pid for pid in victims if start_ticks(pid) is not None]
        if victims:
            time.sleep(0.005)
