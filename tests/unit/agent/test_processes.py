"""A workload's pid means one process, also for the next agent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from lockgate.agent.errors import StateError
from lockgate.agent.supply.processes import Processes
from lockgate.policies.workload import Workload
from lockgate.redirect.device import Device
from lockgate.redirect.errors import NamespaceGoneError, NotSeenError
from lockgate.store.process import born
from lockgate.tests.reused_pid import another
from lockgate.tests.scarcity import descriptors

DEVICE = Device(7, "veth", ())


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as made:
        yield made
        made.kill()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with closing(Processes.open(tmp_path)) as made:
        yield made


def workload(pid: int | None, begun: int | None = None) -> Workload:
    return Workload("x", "default", (), pid=pid, born=begun)


def refusal(processes: Processes, listed: Workload) -> str:
    with pytest.raises(NamespaceGoneError) as caught:
        processes.device(listed, lambda _: DEVICE)
    return str(caught.value)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_the_process_itself(processes: Processes, process: subprocess.Popen[bytes]) -> None:
    for listed in (workload(process.pid), workload(process.pid, born(process.pid)), workload(None)):
        for _ in range(2):
            assert processes.device(listed, lambda _: DEVICE) is DEVICE


def test_another_one_with_its_number(tmp_path: Path, processes: Processes, process: subprocess.Popen[bytes]) -> None:
    """Remembered by the next agent too, as long as the workload is listed so."""
    listed, exact = workload(process.pid), workload(process.pid, born(process.pid))
    processes.device(listed, lambda _: DEVICE)
    processes.keep([listed])
    end(process)
    assert "has ended" in refusal(processes, listed)
    with (
        another(process.pid, lambda: subprocess.Popen(["sleep", "1000"])),
        closing(Processes.open(tmp_path)) as later,
    ):
        for memory in (processes, later):
            for each in (listed, exact):
                assert f"process {process.pid} is not the one" in refusal(memory, each)
        later.keep([workload(None)])
        assert later.device(listed, lambda _: DEVICE) is DEVICE


def test_one_that_cannot_be_looked_at_has_not_ended(processes: Processes, process: subprocess.Popen[bytes]) -> None:
    listed = workload(process.pid)
    processes.device(listed, lambda _: DEVICE)
    with descriptors(os.getpid(), 0), pytest.raises(NotSeenError):
        processes.device(listed, lambda _: DEVICE)
    assert processes.device(listed, lambda _: DEVICE) is DEVICE


def test_what_was_seen_before_the_machine_was_started_anew(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    """Start times of another boot say nothing."""
    listed = workload(process.pid)
    with closing(Processes.open(tmp_path)) as before:
        before._meant = {(listed.key, process.pid): 1}
        before._boot = "another"
        before.keep([listed])
        assert refusal(before, listed)
    with closing(Processes.open(tmp_path)) as after:
        assert after.device(listed, lambda _: DEVICE) is DEVICE


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="make the directory writable"):
        Processes.open(tmp_path / "file" / "state")
