"""What the doctor makes of what it finds, and that it looks at this machine without changing it."""

from __future__ import annotations

import json
from pathlib import Path

from lockgate.agent.machine.check import Check, State
from lockgate.agent.machine.doctor import (
    FEATURES,
    feature_checks,
    mount_checks,
    other_checks,
    program_checks,
    rule_checks,
    sysctl_checks,
)
from lockgate.redirect.kernel.attached import Attached
from lockgate.tests.command_line import lockgate

WELL = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/lo/accept_local": "1",
    "ipv4/ip_early_demux": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/src_valid_mark": "0",
    "core/bpf_jit_enable": "2",
}


def states(checks: list[Check]) -> list[State]:
    return [check.state for check in checks]


def test_a_feature_that_is_missing_names_the_version_that_brings_it() -> None:
    btf = b"".join(b"\0" + feature.function.encode() for feature in FEATURES) + b"\0"
    assert set(states(list(feature_checks(btf)))) == {State.OK}
    (tcx,) = (check for check in feature_checks(btf.replace(b"tcx_link_attach", b"tcx_link_attached")) if check.advice)
    assert (tcx.state, tcx.found) == (State.FAIL, "missing (since 6.6)")
    assert tcx.advice == "needed for programs that outlive the agent: use a kernel of 6.6 or newer"


def test_mounts() -> None:
    assert states(list(mount_checks({("/sys/fs/bpf", "bpf"), ("/sys/fs/cgroup", "cgroup2")}))) == [State.OK, State.OK]
    bpf, cgroup = mount_checks({("/elsewhere", "bpf")})
    assert (bpf.state, cgroup.state) == (State.WARN, State.FAIL)
    assert cgroup.advice == "mount -t cgroup2 none /sys/fs/cgroup/unified"


def test_sysctls() -> None:
    assert set(states(list(sysctl_checks(WELL.get)))) == {State.OK}
    strict = WELL | {"ipv4/conf/all/rp_filter": "1"}
    (wrong,) = (check for check in sysctl_checks(strict.get) if check.state is not State.OK)
    assert (wrong.name, wrong.state, wrong.found) == ("net.ipv4.conf.all.rp_filter", State.WARN, "1")
    assert "Envoy's upstream connections have pods' addresses" in wrong.advice
    (marked,) = (
        each for each in sysctl_checks((WELL | {"ipv4/conf/all/src_valid_mark": "1"}).get) if each.state is not State.OK
    )
    assert (marked.state, marked.advice.endswith("IPv4 uplinks; set it to 0")) == (State.WARN, True)
    without_ipv6 = {key: value for key, value in WELL.items() if not key.startswith("ipv6")}
    assert set(states(list(sysctl_checks(without_ipv6.get)))) == {State.OK}


def test_marks_of_others() -> None:
    (none,) = rule_checks([])
    assert "no agent runs" in none.found
    ours = (0x200, 0xF00, 2005)
    own, rival = rule_checks([ours, ours, (0x200, 0xF00, 2004), (0x10000, 0xFF0000, 7)])
    assert own.found == "2 of ours"
    assert (rival.state, "table 2004" in rival.found) == (State.WARN, True)


def test_other_networks() -> None:
    assert [check.found for check in other_checks(["eth0", "veth1"], [])] == ["none"]
    (cilium, configured) = other_checks(["cilium_host", "cilium_net"], ["05-cilium.conflist"])
    assert (cilium.name, cilium.state) == ("Cilium", State.WARN)
    assert configured.found == "05-cilium.conflist"


def test_programs_of_others() -> None:
    (none,) = program_checks([])
    assert (none.state, none.found) == (State.OK, "none at any interface")
    (found,) = program_checks([Attached("eth0", "ingress", "tcx", "cil_from_netdev")])
    assert (found.state, found.found) == (State.WARN, "cil_from_netdev at eth0 (tcx ingress)")


def test_the_command_on_this_machine(tmp_path: Path) -> None:
    ended = lockgate("datapath", "doctor", "--no-probe", "-o", "json", "--run-dir", tmp_path)
    shown = json.loads(ended.out)
    assert shown["ok"] is (ended.status == 0)
    assert {check["group"] for check in shown["checks"]} == {
        *("rights", "kernel", "mounts", "sysctls", "routing", "bridges", "pods", "ports", "envoy", "others")
    }
    kernel = {check["name"]: check["state"] for check in shown["checks"] if check["group"] == "kernel"}
    assert kernel["BPF links on tc (TCX)"] == "ok", "the tests run on such a kernel"
    assert "WHAT TO DO" in lockgate("datapath", "doctor", "--no-probe", "--run-dir", tmp_path).out


def test_maps_without_an_agent_ever(tmp_path: Path) -> None:
    ended = lockgate("datapath", "maps", "--run-dir", tmp_path / "none")
    assert ended.status == 1
    assert "no agent has loaded a data path for this --run-dir" in ended.err
