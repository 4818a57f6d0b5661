"""Where control groups are, and what is said when there is none. Their programs: tests/e2e/test_agent_processes.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.redirect.control_group import number_of, parents, present
from lockgate.redirect.errors import EndpointUnreachableError, NamespaceGoneError
from lockgate.redirect.kernel import cgroup
from lockgate.redirect.plan import is_group


@pytest.fixture
def slice() -> Iterator[Path]:
    made = cgroup.root() / f"lockgate-unit-{os.getpid()}.slice"
    made.mkdir()
    yield made
    for each in sorted(made.rglob("*.service"), reverse=True):
        each.rmdir()
    made.rmdir()


def test_one_that_is_made_anew_is_another(slice: Path) -> None:
    group = f"/{slice.name}/a.service"
    seen = []
    for _ in range(2):
        (slice / "a.service").mkdir()
        seen.append(number_of(group))
        assert present([group, "/nowhere.service"]) == {group: seen[-1]}
        (slice / "a.service").rmdir()
    assert seen[0] != seen[1]
    assert all(map(is_group, seen))


def test_where_news_of_one_come_from(slice: Path) -> None:
    assert parents([f"/{slice.name}/a.service", f"/{slice.name}/b/c/d.service"]) == {str(slice)}
    assert parents(["/nowhere.service"]) == {str(cgroup.root())}
    assert parents([]) == frozenset()


def test_one_that_there_is_none_of(slice: Path) -> None:
    with pytest.raises(NamespaceGoneError, match=r"control group /\S+/a.service does not exist; start the service"):
        number_of(f"/{slice.name}/a.service")


def test_the_one_that_we_are_in(slice: Path) -> None:
    parent, child = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            (slice / "cgroup.procs").write_text("0")
            number_of(f"/{slice.name}")
        except EndpointUnreachableError as error:
            os.write(child, str(error).encode())
        finally:
            os._exit(0)
    os.close(child)
    told = os.read(parent, 1000).decode()
    os.close(parent)
    os.waitpid(pid, 0)
    assert told == (
        f"control group /{slice.name} holds Lockgate itself, which is no workload; name the group of the service alone"
    )
