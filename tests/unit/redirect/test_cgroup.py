"""Where the root of the cgroups is: as this machine has it, and as others do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lockgate.redirect.errors import BpfUnsupportedError
from lockgate.redirect.kernel.cgroup import root

V1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu"
OWN, BOUND = "/", "/../.."  # how a container's own group and the machine's root look in its view


@dataclass
class Machine:
    """What a process sees in /proc. In `proc` its view is that of the first process, unless it is in a `container`."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    def shows(self, name: str, as_: str, root: bool) -> Path:
        """A mount."""
        path = self.folder / name
        path.mkdir()
        if not root:
            (path / "cgroup.events").touch()
        self.lines.append(f"35 25 0:31 {as_} {str(path).replace(' ', chr(92) + '040')} rw - cgroup2 none rw")
        return path

    def proc(self, container: bool = False) -> Path:
        made = self.folder / "proc"
        for process, view in (("self", "view-own" if container else "view-1"), ("1", "view-1")):
            (made / process / "ns").mkdir(parents=True)
            (self.folder / view).touch()
            (made / process / "ns/cgroup").symlink_to(self.folder / view)
        (made / "self/mountinfo").write_text("\n".join([V1, *self.lines]) + "\n")
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_root_wins_over_a_part_that_is_mounted_elsewhere(machine: Machine) -> None:
    machine.shows("a b", "/system.slice/x", root=False)
    whole = machine.shows("unified", "/", root=True)
    assert root(machine.proc()) == whole


def test_where_only_a_part_is_seen_by_everybody(machine: Machine) -> None:
    part = machine.shows("a b", "/system.slice/x", root=False)
    assert root(machine.proc()) == part


@pytest.mark.parametrize("first", [OWN, BOUND])
def test_a_containers_own_group_is_not_the_root(machine: Machine, first: str) -> None:
    """Which it looks like, where control groups have only version 2."""
    for shown in (OWN, BOUND) if first == OWN else (BOUND, OWN):
        machine.shows(f"at{shown.replace('/', '-')}", shown, root=shown == BOUND)
    assert root(machine.proc(container=True)).name == "at-..-.."


def test_a_container_that_is_shown_its_own_group_alone(machine: Machine) -> None:
    machine.shows("cgroup", OWN, root=False)
    with pytest.raises(BpfUnsupportedError, match="bind the host's /sys/fs/cgroup"):
        root(machine.proc(container=True))


def test_without_one_the_sentence_says_what_to_mount(machine: Machine) -> None:
    with pytest.raises(BpfUnsupportedError, match="mount -t cgroup2 none"):
        root(machine.proc())


def test_this_machine_has_one() -> None:
    assert (root() / "cgroup.procs").exists()
