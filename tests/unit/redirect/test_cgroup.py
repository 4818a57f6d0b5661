"""Where the root of the cgroups is: as this machine has it, and as others do."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.redirect.errors import BpfUnsupportedError
from lockgate.redirect.kernel.cgroup import root

V1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu"
HYBRID = "35 25 0:31 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw"
PART = "99 25 0:31 /system.slice/x /run/a\\040b rw - cgroup2 none rw"


def found(folder: Path, *lines: str) -> Path:
    mounts = folder / "mountinfo"
    mounts.write_text("\n".join(lines) + "\n")
    return root(mounts)


def test_the_root_wins_over_a_part_that_is_mounted_elsewhere(tmp_path: Path) -> None:
    assert found(tmp_path, V1, PART, HYBRID) == Path("/sys/fs/cgroup/unified")
    assert found(tmp_path, PART, V1) == Path("/run/a b")


def test_without_one_the_sentence_says_what_to_mount(tmp_path: Path) -> None:
    with pytest.raises(BpfUnsupportedError, match="mount -t cgroup2 none"):
        found(tmp_path, V1)


def test_this_machine_has_one() -> None:
    assert (root() / "cgroup.procs").exists()
