"""The memory across restarts: what a new agent recalls of files that broke while nobody watched."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from lockgate.agent.errors import StateError
from lockgate.agent.supply.intake import Intake, admit
from lockgate.agent.supply.last_good import LastGood
from lockgate.store import Document, StoreContent

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: NAME}}
  ingress: [{toPorts: [{ports: [{port: "PORT", protocol: TCP}]}]}]
"""
UNREADABLE = b"a: b: c\n"


def policies(**ports: int) -> bytes:
    return "---".join(POLICY.replace("NAME", name).replace("PORT", str(port)) for name, port in ports.items()).encode()


def workloads(**ips: str) -> bytes:
    return ("workloads:" + "".join(f"\n- {{name: {name}, ips: [{ip}]}}" for name, ip in ips.items())).encode()


class Agents:
    """Agents that run one after the other on one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.start()

    def start(self) -> None:
        self.memory = LastGood.open(self.state_dir)
        self.intake = Intake()

    def restart(self) -> None:
        self.memory.close()
        self.start()

    def sees(self, *, remember: bool = True, w: bytes = workloads(), **files: bytes) -> Agents:
        documents = tuple(Document(f"/p/{name}.yaml", data) for name, data in sorted(files.items()))
        self.intake = admit(self.intake, StoreContent(documents, (Document("/w.yaml", w),)), self.memory)
        if remember:
            self.memory.remember(self.intake)
        return self

    @property
    def enforced(self) -> dict[str, int]:
        found = {}
        for policy in self.intake.policies:
            entry = policy.rules[0].ingress[0]
            assert entry.ports is not None
            found[policy.key.name] = entry.ports[0].ports[0].first
        return found

    @property
    def known(self) -> dict[str, str]:
        return {workload.name: str(workload.ips[0]) for workload in self.intake.workloads}


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    agents = Agents(tmp_path / "state" / "lockgate")
    yield agents
    agents.memory.close()


def test_a_file_that_broke_while_no_agent_ran_keeps_its_policies(agents: Agents) -> None:
    agents.sees(a=policies(one=1, two=1), b=policies(three=1))
    agents.restart()
    assert agents.sees(a=UNREADABLE, b=policies(three=3)).enforced == {"one": 1, "two": 1, "three": 3}
    assert {key.name for key in agents.intake.stale} == {"one", "two"}


def test_each_policy_is_recalled_in_the_version_that_was_its_last_good_one(agents: Agents) -> None:
    agents.sees(a=policies(one=1, two=1)).sees(a=policies(one=70000, two=2)).sees(a=policies(one=3, two=70000))
    agents.restart()
    assert agents.sees(a=UNREADABLE).enforced == {"one": 3, "two": 2}
    agents.restart()
    assert agents.sees(a=policies(one=70000, two=4)).enforced == {"one": 3, "two": 4}


def test_recalling_works_from_another_thread_and_for_generations_of_agents(agents: Agents) -> None:
    """The agent reads files in a thread of its own."""
    agents.sees(a=policies(one=1))
    for _ in range(3):
        agents.restart()
        thread = threading.Thread(target=agents.sees, kwargs={"a": UNREADABLE})
        thread.start()
        thread.join()
        assert agents.enforced == {"one": 1}


def test_what_was_not_brought_into_force_is_not_remembered(agents: Agents) -> None:
    agents.sees(a=policies(one=1)).sees(a=policies(one=2), remember=False)
    agents.restart()
    assert agents.sees(a=UNREADABLE).enforced == {"one": 1}


def test_deleted_policies_stay_deleted(agents: Agents) -> None:
    agents.sees(a=policies(one=1, two=1), b=policies(three=1)).sees(a=policies(two=1))
    agents.restart()
    assert agents.sees(a=UNREADABLE, b=UNREADABLE).enforced == {"two": 1}


def test_a_file_that_was_deleted_while_no_agent_ran_is_forgotten(agents: Agents) -> None:
    agents.sees(a=policies(one=1))
    agents.restart()
    assert agents.sees().enforced == {}
    agents.restart()
    assert agents.sees(a=UNREADABLE).enforced == {}


def test_workloads_are_recalled_too(agents: Agents) -> None:
    agents.sees(w=workloads(one="10.0.0.1", two="10.0.0.2"))
    agents.restart()
    assert agents.sees(w=UNREADABLE).known == {"one": "10.0.0.1", "two": "10.0.0.2"}
    agents.restart()
    assert agents.sees(w=workloads(one="10.0.0.300", three="10.0.0.3")).known == {
        "three": "10.0.0.3",
        "one": "10.0.0.1",
    }


def test_only_what_is_still_needed_is_stored(agents: Agents) -> None:
    for port in range(1, 5):
        agents.sees(a=policies(one=port, two=port if port < 3 else 70000))
    with closing(sqlite3.connect(agents.memory.path)) as database:
        # Of the four versions: that of `one`, and the older one of `two`; and the workloads file, which names nobody.
        assert database.execute("SELECT count(*) FROM document").fetchone() == (2,)


def test_one_path_may_be_given_for_policies_and_for_workloads(tmp_path: Path) -> None:
    both = Document("/both.yaml", policies(one=1)), Document("/both.yaml", workloads(one="10.0.0.1"))
    memory = LastGood.open(tmp_path)
    memory.remember(admit(Intake(), StoreContent(both[:1], both[1:]), memory))
    memory.close()
    with closing(LastGood.open(tmp_path)) as recalled:
        assert [str(policy.key) for policy in recalled.policies("/both.yaml")] == ["default/one"]
        assert [workload.key for workload in recalled.workloads("/both.yaml")] == ["default/one"]
        recalled.remember(admit(Intake(), StoreContent(both[:1], ()), recalled))
        assert recalled.policies("/both.yaml") and not recalled.workloads("/both.yaml")


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "accepted.db"
    path.write_text("my notes, which are longer than the head of a database\n" * 10)
    with pytest.raises(StateError, match=rf"^{path}: file is not a database; .*move the file away"):
        LastGood.open(tmp_path)
    assert path.read_text().startswith("my notes")


def test_a_state_directory_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="Not a directory; make the directory writable"):
        LastGood.open(tmp_path / "file" / "state")


def test_a_memory_that_fails_says_so_and_stores_the_next_time(agents: Agents) -> None:
    agents.sees(a=policies(one=1))
    with closing(sqlite3.connect(agents.memory.path, isolation_level=None)) as other:
        agents.memory._database.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="database is locked"):
            agents.sees(a=policies(one=2))
        other.execute("ROLLBACK")
    agents.sees(a=policies(one=2))
    agents.restart()
    assert agents.sees(a=UNREADABLE).enforced == {"one": 2}


def test_services_are_remembered_too(agents: Agents) -> None:
    agents.sees(w=b"services:\n- {name: a, ips: [192.0.2.1]}\n- {name: b, ips: [192.0.2.2]}\n").restart()
    agents.sees(w=b"services:\n- {name: a, ips: [nowhere]}\n")
    assert [(service.key, str(service.ips[0])) for service in agents.intake.services] == [("default/a", "192.0.2.1")]
    agents.restart()
    agents.sees(w=UNREADABLE)
    assert [service.key for service in agents.intake.services] == ["default/a"]


def test_nodes_are_remembered_too(agents: Agents) -> None:
    agents.sees(w=b"nodes:\n- {name: a, ips: [192.0.2.1]}\n- {name: b, ips: [192.0.2.2]}\n").restart()
    agents.sees(w=b"nodes:\n- {name: a, ips: [nowhere]}\n")
    assert [(node.name, str(node.ips[0])) for node in agents.intake.nodes] == [("a", "192.0.2.1")]
    agents.restart()
    agents.sees(w=UNREADABLE)
    assert [node.name for node in agents.intake.nodes] == ["a"]


def test_what_envoy_refused_is_remembered_in_the_version_before(tmp_path: Path) -> None:
    agents = Agents(tmp_path).sees(a=policies(one=80, two=80))
    (old, _) = agents.intake.policies
    agents.sees(remember=False, a=policies(one=81, two=81, new=81))
    (refused, _, new) = agents.intake.policies
    agents.memory.remember(agents.intake.with_stand_ins({refused.key: old, new.key: None}))
    assert agents.enforced == {"one": 81, "two": 81, "new": 81}, "what is wanted stays what the files say"
    agents.restart()
    agents.sees(remember=False, a=UNREADABLE)
    assert agents.enforced == {"one": 80, "two": 81}
    agents.restart()
    agents.sees(a=policies(one=81, two=81, new=81)).restart()
    agents.sees(remember=False, a=UNREADABLE)
    assert agents.enforced == {"one": 81, "two": 81, "new": 81}, "it was taken in the end"


def remember_and_forget(memory: LastGood, intake: Intake, failed: list[StateError]) -> None:
    try:
        memory.remember(intake)
        memory.remember(Intake())
    except StateError as error:
        failed.append(error)


def test_who_closes_it_waits_for_a_thread_that_writes(tmp_path: Path) -> None:
    """An agent that ends does not wait for its threads; SQLite would crash."""
    documents = tuple(Document(f"/p/{number}.yaml", policies(**{f"p{number}": 80})) for number in range(300))
    for part in range(20):
        memory = LastGood.open(tmp_path / str(part))
        intake = admit(Intake(), StoreContent(documents, ()), memory)
        failed: list[StateError] = []
        thread = threading.Thread(target=remember_and_forget, args=(memory, intake, failed))
        thread.start()
        memory.close()
        thread.join()
        assert all("closed database" in str(error) for error in failed)
        with closing(LastGood.open(tmp_path / str(part))) as again:
            assert len(again.policies("/p/0.yaml")) + len(again.policies("/p/299.yaml")) in (0, 2)
