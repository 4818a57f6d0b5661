"""`lockgate datapath doctor`: whether this machine can run a node agent, and what may be in its way.

Facts are gathered by `examine`, which changes nothing; each becomes one Check. `probe` sends packets.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from ...envoy.errors import EnvoyError
from ...envoy.running.binary import VERSION, find_binary
from ...envoy.running.run_files import lock_holder
from ...redirect.errors import RedirectError
from ...redirect.kernel.attached import Attached, others_programs
from ...redirect.kernel.bridge_table import BRIDGE_TABLE
from ...redirect.kernel.unseen_table import UNSEEN_TABLE
from ...redirect.routing import MARK_MASK, MARK_PROXY, TABLE
from ..settings import Settings
from .check import Check, State
from .loopback_port import try_ports

_BTF = Path("/sys/kernel/btf/vmlinux")
_SYSCTL = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class _Feature:
    """A part of the kernel: the function that is in the kernel's type information (BTF) when it is there."""

    name: str
    since: str
    function: str
    use: str


# The versions are those that brought the features: https://docs.ebpf.io/linux/
FEATURES = (
    _Feature("LPM trie maps", "4.11", "trie_lookup_elem", "addresses and port ranges"),
    _Feature("LRU hash maps", "4.10", "htab_lru_map_lookup_elem", "connections"),
    _Feature("socket look-up in tc", "5.2", "bpf_skc_lookup_tcp", "finding Envoy's socket"),
    _Feature("socket assignment", "5.7", "bpf_sk_assign", "handing connections to Envoy"),
    _Feature("batched map access", "5.6", "generic_map_lookup_batch", "reading and writing thousands of entries"),
    _Feature("cgroup programs on connect", "4.17", "__cgroup_bpf_run_filter_sock_addr", "service addresses"),
    _Feature("redirection to a peer", "5.10", "bpf_redirect_peer", "host routing"),
    _Feature("BPF links on tc (TCX)", "6.6", "tcx_link_attach", "programs that outlive the agent"),
)

# What an agent leaves to others, who may have a reason: wg-quick sets the second where all goes into a tunnel.
_OF_OTHERS = ("core/bpf_jit_enable", "ipv4/conf/all/src_valid_mark")
# The rest it sets by itself; a program that sets it back is in the way.
_SYSCTLS = (
    ("ipv4/ip_forward", ("1",), "pods do not reach each other without it"),
    ("ipv4/conf/all/rp_filter", ("0",), "Envoy's upstream connections have pods' addresses"),
    ("ipv4/conf/lo/accept_local", ("1",), "answers of servers on this node are turned back over lo"),
    ("ipv4/ip_early_demux", ("0",), "the kernel drops what is translated on its way to Envoy, as to a published port"),
    ("ipv6/conf/all/forwarding", ("1",), "pods do not reach each other over IPv6 without it"),
    (
        "ipv4/conf/all/src_valid_mark",
        ("0",),
        "requests that Envoy carries are dropped where they come in by IPv4 uplinks",
    ),
    ("core/bpf_jit_enable", ("1", "2"), "programs would be interpreted, several times slower"),
)
_CNI_INTERFACES: Mapping[str, str] = {
    "cilium_": "Cilium",
    "lxc_health": "Cilium",
    "cali": "Calico",
    "flannel": "Flannel",
    "weave": "Weave Net",
    "antrea-": "Antrea",
    "kube-ipvs": "kube-proxy in IPVS mode",
}
_MARK_RIVALS = "Cilium and some VPNs use such marks: run Lockgate beside one of them only with marks kept apart"


def examine(settings: Settings) -> list[Check]:
    """Everything, in the order in which it should be mended."""
    return [check for part in _PARTS for check in part(settings)]


def _rights(_: Settings) -> Iterator[Check]:
    root = os.geteuid() == 0
    yield Check("rights", "root", _fail_unless(root), "yes" if root else "no", "" if root else "run it with sudo")


def _kernel(_: Settings) -> Iterator[Check]:
    yield Check("kernel", "release", State.OK, platform.release())
    try:
        btf = _BTF.read_bytes()
    except OSError:
        yield Check(
            "kernel", "BTF", State.FAIL, f"{_BTF} cannot be read", "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        )
        return
    yield Check("kernel", "BTF", State.OK, f"{len(btf)} bytes")
    yield from feature_checks(btf)


def feature_checks(btf: bytes) -> Iterator[Check]:
    """By the names in the kernel's own type information."""
    for feature in FEATURES:
        there = b"\0" + feature.function.encode() + b"\0" in btf
        yield Check(
            "kernel",
            feature.name,
            _fail_unless(there),
            f"there (since {feature.since})" if there else f"missing (since {feature.since})",
            "" if there else f"needed for {feature.use}: use a kernel of {feature.since} or newer",
        )


def _mounts(_: Settings) -> Iterator[Check]:
    mounted = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    yield from mount_checks({(where, kind) for where, kind in mounted})


def mount_checks(mounted: set[tuple[str, str]]) -> Iterator[Check]:
    """(mount point, kind) of every mount."""
    bpffs = [where for where, kind in mounted if kind == "bpf"]
    if "/sys/fs/bpf" in bpffs:
        yield Check("mounts", "bpf", State.OK, "/sys/fs/bpf")
    else:
        yield Check("mounts", "bpf", State.WARN, "not on /sys/fs/bpf", "the agent mounts it when it starts")
    cgroups = sorted(where for where, kind in mounted if kind == "cgroup2")
    yield Check(
        "mounts",
        "cgroup2",
        _fail_unless(bool(cgroups)),
        cgroups[0] if cgroups else "not mounted",
        "" if cgroups else "mount -t cgroup2 none /sys/fs/cgroup/unified",
    )


def _sysctls(_: Settings) -> Iterator[Check]:
    def value(key: str) -> str | None:
        try:
            return (_SYSCTL / key).read_text().strip()
        except OSError:
            return None

    yield from sysctl_checks(value)


def sysctl_checks(value: Callable[[str], str | None]) -> Iterator[Check]:
    """`value` reads a key below /proc/sys/net; None: there is none (no IPv6, another namespace)."""
    for key, wanted, why in _SYSCTLS:
        found = value(key)
        name = f"net.{key.replace('/', '.')}"
        if found is None:
            yield Check("sysctls", name, State.OK, "not there")
        elif found in wanted:
            yield Check("sysctls", name, State.OK, found)
        else:
            own = "set it to {0}" if key in _OF_OTHERS else "an agent sets it to {0} when it starts"
            yield Check("sysctls", name, State.WARN, found, f"{why}; {own.format(wanted[0])}")


def _routing(_: Settings) -> Iterator[Check]:
    with IPRoute() as routes:
        rules = [
            (rule.get_attr("FRA_FWMARK"), rule.get_attr("FRA_FWMASK") or 0xFFFFFFFF, rule.get_attr("FRA_TABLE"))
            for family in (socket.AF_INET, socket.AF_INET6)
            for rule in routes.get_rules(family=family)
        ]
    yield from rule_checks([rule for rule in rules if rule[0]])


def _strangers(_: Settings) -> Iterator[Check]:
    for group, name, table, told in (
        (
            "bridges",
            "new ports",
            BRIDGE_TABLE,
            "of containers and pods that start while no agent runs, those on one bridge reach each other",
        ),
        ("pods", "unknown pods", UNSEEN_TABLE, "pods that start while no agent runs are not cut off"),
    ):
        try:
            table.check()
        except RedirectError as error:
            yield Check(group, name, State.WARN, "cannot be mute", f"{told}: {error}")
        else:
            yield Check(group, name, State.OK, "can be mute until they are policed")


def rule_checks(rules: Sequence[tuple[int, int, int]]) -> Iterator[Check]:
    """(mark, mask, table) of the rules that go by a mark."""
    own = [rule for rule in rules if rule == (MARK_PROXY, MARK_MASK, TABLE)]
    found = f"{len(own)} of ours" if own else "none of ours: no agent runs in this namespace"
    yield Check("routing", "rules", State.OK, found)
    for mark, mask, table in dict.fromkeys(rules):
        if mask & MARK_MASK and (mark, mask, table) != (MARK_PROXY, MARK_MASK, TABLE):
            yield Check(
                "routing",
                "marks",
                State.WARN,
                f"a rule for mark {mark:#x}/{mask:#x} leads to table {table}",
                f"Lockgate uses the bits {MARK_MASK:#x} of the mark. {_MARK_RIVALS}",
            )


def _ports(settings: Settings) -> Iterator[Check]:
    if lock_holder(settings.run_dir) is not None:
        yield Check("ports", "Envoy", State.OK, f"an Envoy of {settings.run_dir} has them")
        return
    for port in try_ports(settings, ("http_port", "tls_port", "kafka_port", "dns_port")):
        if port.trouble:
            yield Check("ports", str(port), State.FAIL, port.trouble, port.advice)
        else:
            yield Check("ports", str(port), State.OK, "free")


def _envoy(settings: Settings) -> Iterator[Check]:
    try:
        binary = find_binary(settings.envoy)
    except EnvoyError as error:
        yield Check("envoy", "binary", State.FAIL, "not usable", str(error))
    else:
        yield Check("envoy", "binary", State.OK, f"{binary.path}, {VERSION}")


def _others(_: Settings) -> Iterator[Check]:
    interfaces = [name for _, name in socket.if_nameindex()]
    folder = Path("/etc/cni/net.d")
    configured = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    yield from other_checks(interfaces, configured)
    yield from program_checks(tuple(others_programs()))


def program_checks(found: Sequence[Attached]) -> Iterator[Check]:
    """Programs of others at this namespace's interfaces."""
    if not found:
        yield Check("others", "programs", State.OK, "none at any interface")
    for each in found:
        advice = "it sees packets before or after ours and may pass, drop or redirect them: find out whose it is"
        yield Check("others", "programs", State.WARN, str(each), advice)


def other_checks(interfaces: Sequence[str], configured: Sequence[str]) -> Iterator[Check]:
    """Other networks on this machine, by their interfaces and the files in /etc/cni/net.d."""
    found = sorted({who for begin, who in _CNI_INTERFACES.items() for name in interfaces if name.startswith(begin)})
    for who in found:
        advice = f"{who} polices or translates traffic too; Lockgate works beside a plain CNI only"
        state = State.WARN if who != "Flannel" else State.OK
        yield Check("others", who, state, "its interfaces are here", advice if state is State.WARN else "")
    if configured:
        yield Check("others", "CNI", State.OK, ", ".join(configured))
    elif not found:
        yield Check("others", "CNI", State.OK, "none")


def _fail_unless(well: bool) -> State:
    return State.OK if well else State.FAIL


_PARTS: Sequence[Callable[[Settings], Iterator[Check]]] = (
    _rights,
    _kernel,
    _mounts,
    _sysctls,
    _routing,
    _strangers,
    _ports,
    _envoy,
    _others,
)
