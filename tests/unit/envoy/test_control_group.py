"""Which control groups a process is to leave, and where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.envoy.running.control_group import elsewhere, hierarchies

V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
30 24 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
OWN_VIEW = "40 39 0:30 /kubepods/podX /sys/fs/cgroup ro - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "paths"),
    [
        (V2, ["/sys/fs/cgroup"]),
        (V1, ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"]),
        (OWN_VIEW, []),
        (OWN_VIEW + V2, ["/sys/fs/cgroup"]),
        (V2 + OWN_VIEW, []),
        (r"35 24 0:30 / /mnt/a\040b rw - cgroup2 cgroup2 rw", ["/mnt/a b"]),
        ("35 24 0:30 / /sys/fs/cgroup rw - tmpfs cgroup2 rw\n", []),
        ("", []),
    ],
)
def test_where_whole_hierarchies_are(mountinfo: str, paths: list[str]) -> None:
    assert hierarchies(mountinfo) == [Path(each) for each in paths]


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        ("0::/own.slice\n", []),
        ("0::/\n", []),
        ("12:pids:/own.slice\n1:name=systemd:/own.slice\n0::/\n", []),
        ("12:pids:/kubepods/podX/c\n0::/own.slice\n", ["12:pids:/kubepods/podX/c"]),
        ("0::/own.slice/more\n", ["0::/own.slice/more"]),
        ("0::/../other:1\n", ["0::/../other:1"]),
    ],
)
def test_what_was_not_left(groups: str, left: list[str]) -> None:
    assert elsewhere(groups, "/own.slice") == left
