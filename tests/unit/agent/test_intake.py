"""Which version of each policy and workload is enforced, whatever happens to the files."""

from __future__ import annotations

from lockgate.agent.supply.intake import Intake, NoMemory, admit
from lockgate.policies import Policy
from lockgate.policies.node import Node
from lockgate.policies.secret import Secret
from lockgate.policies.service import Service
from lockgate.policies.workload import Workload
from lockgate.store import Document, StoreContent

BROKEN_PORT = "70000"
UNREADABLE = Document("a.yaml", b"a: b: c\n")


def policy(name: str, port: str = "80") -> str:
    return f"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: {name}}}}}
  ingress: [{{toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]}}]}}]
"""


def document(*policies: str, source: str = "a.yaml") -> Document:
    return Document(source, "---".join(policies).encode())


def workloads(*entries: str, source: str = "w.yaml") -> Document:
    return Document(source, "\n- ".join(("workloads:", *entries)).encode())


def content(*policies: Document, workloads: tuple[Document, ...] = (), problems: tuple[str, ...] = ()) -> StoreContent:
    return StoreContent(policies, workloads, problems)


def after(*steps: StoreContent) -> Intake:
    """What is enforced when the store has shown these contents one after the other."""
    intake = Intake()
    for step in steps:
        intake = admit(intake, step, NoMemory())
    return intake


def ports(intake: Intake) -> dict[str, int]:
    """The port each enforced policy opens: it tells its versions apart."""
    found = {}
    for each in intake.policies:
        entry = each.rules[0].ingress[0]
        assert entry.ports is not None
        found[each.key.name] = entry.ports[0].ports[0].first
    return found


def stale(intake: Intake) -> list[str]:
    return sorted(key.name for key in intake.stale)


def errors(intake: Intake) -> list[str]:
    return [str(problem) for problem in intake.problems if problem.is_error]


def test_a_broken_policy_keeps_its_last_good_version_and_its_neighbours_move_on() -> None:
    intake = after(
        content(document(policy("one", "1"), policy("two", "1"))),
        content(document(policy("one", BROKEN_PORT), policy("two", "2"))),
    )
    assert ports(intake) == {"one": 1, "two": 2}
    assert stale(intake) == ["one"]
    assert [problem.path for problem in intake.problems if problem.is_error] == [
        "spec.ingress[0].toPorts[0].ports[0].port"
    ]


def test_a_version_that_broke_twice_is_still_the_last_good_one_and_a_repaired_file_counts_at_once() -> None:
    broken = content(document(policy("one", BROKEN_PORT)))
    unreadable = content(UNREADABLE)
    good = content(document(policy("one", "1")))
    assert ports(after(good, broken, unreadable, broken)) == {"one": 1}
    repaired = after(good, broken, unreadable, content(document(policy("one", "2"))))
    assert ports(repaired) == {"one": 2}
    assert stale(repaired) == []
    assert errors(repaired) == []


def test_a_file_that_is_no_yaml_keeps_all_of_its_policies() -> None:
    intake = after(content(document(policy("one"), policy("two"))), content(UNREADABLE))
    assert stale(intake) == ["one", "two"]
    assert errors(intake)[0].startswith("a.yaml:1: ")


def test_a_file_that_cannot_be_read_keeps_all_of_its_policies() -> None:
    failed = Document("a.yaml", b"", "cannot be read: Input/output error")
    intake = after(content(document(policy("one"))), content(failed))
    assert stale(intake) == ["one"]
    assert errors(intake) == ["a.yaml: cannot be read: Input/output error"]


def test_a_policy_that_its_readable_file_no_longer_holds_is_gone() -> None:
    both = content(document(policy("one"), policy("two")))
    assert ports(after(both, content(document(policy("two"))))) == {"two": 80}
    assert ports(after(both, content(document(policy("two", BROKEN_PORT))))) == {"two": 80}


def test_a_deleted_file_takes_its_policies_with_it_even_when_it_was_broken() -> None:
    good, broken = content(document(policy("one"))), content(UNREADABLE)
    for steps in ((good, content()), (good, broken, content()), (good, broken, content(), broken)):
        assert after(*steps).policies == ()


def test_a_broken_file_without_a_past_enforces_nothing_and_says_so() -> None:
    intake = after(content(document(policy("one", BROKEN_PORT))))
    assert intake.policies == ()
    assert stale(intake) == []
    assert len(errors(intake)) == 1


def test_one_policy_in_two_files_belongs_to_the_first_until_that_lets_it_go() -> None:
    first, second = document(policy("one", "1")), document(policy("one", "2"), source="b.yaml")
    intake = after(content(first, second))
    assert ports(intake) == {"one": 1}
    assert errors(intake) == [
        "b.yaml:2: metadata.name: policy default/one is already defined at a.yaml:2; this one is ignored; "
        "give one of them another name"
    ]
    assert ports(after(content(first, second), content(second))) == {"one": 2}
    moved = after(content(first, second), content(UNREADABLE, second))
    assert ports(moved) == {"one": 1}, "an unreadable file may still hold the policy"


def test_what_the_store_could_not_list_is_a_problem_and_changes_nothing() -> None:
    steps = content(document(policy("one"))), content(document(policy("one")), problems=("policies: gone",))
    intake = after(*steps)
    assert ports(intake) == {"one": 80}
    assert errors(intake) == ["store: policies: gone"]


def test_a_document_that_did_not_change_is_not_parsed_again() -> None:
    before = after(content(document(policy("one")), workloads=(workloads("{name: w}"),)))
    again = admit(before, content(document(policy("one")), workloads=(workloads("{name: w}"),)), NoMemory())
    assert again.files["a.yaml"] is before.files["a.yaml"]
    assert again.workload_files["w.yaml"] is before.workload_files["w.yaml"]


def test_broken_workloads_keep_their_last_good_version() -> None:
    good = content(workloads=(workloads("{name: w, netns: w, ips: [10.0.0.1]}", "{name: v, netns: v}"),))
    broken = content(workloads=(workloads("{name: w, netns: w, ips: [10.0.0.300]}", "{name: u, netns: u}"),))
    intake = after(good, broken)
    assert {each.key: each.netns for each in intake.workloads} == {"default/w": "w", "default/u": "u"}
    assert [str(ip) for each in intake.workloads for ip in each.ips] == ["10.0.0.1"]
    assert errors(intake)[0].startswith("w.yaml:2: workloads[0].ips[0]: ")


def test_a_workloads_file_that_is_no_yaml_keeps_all_of_its_workloads() -> None:
    good = content(workloads=(workloads("{name: w, netns: w}", "{name: v, netns: v}"),))
    intake = after(good, content(workloads=(Document("w.yaml", b"workloads: ["),)))
    assert [each.key for each in intake.workloads] == ["default/w", "default/v"]
    assert len(errors(intake)) == 1


def test_one_workload_in_two_files_belongs_to_the_first() -> None:
    files = (
        workloads("{name: w, netns: first}", source="a.yaml"),
        workloads("{name: w, netns: second}", source="b.yaml"),
    )
    intake = after(content(workloads=files))
    assert [each.netns for each in intake.workloads] == ["first"]
    assert "workload default/w is already defined at a.yaml:2" in errors(intake)[0]


class Remembered:
    """What an earlier agent accepted, whatever the source."""

    def __init__(self, accepted: Intake) -> None:
        self._accepted = accepted

    def policies(self, source: str) -> tuple[Policy, ...]:
        return self._accepted.policies

    def secrets(self, source: str) -> tuple[Secret, ...]:
        return self._accepted.secrets

    def services(self, source: str) -> tuple[Service, ...]:
        return ()

    def nodes(self, source: str) -> tuple[Node, ...]:
        return self._accepted.nodes

    def workloads(self, source: str) -> tuple[Workload, ...]:
        return self._accepted.workloads


def test_memory_stands_in_for_files_that_are_broken_when_the_agent_starts() -> None:
    memory = Remembered(after(content(document(policy("one", "1")), workloads=(workloads("{name: w, netns: w}"),))))
    listed = Document("w.yaml", b"workloads: [")
    intake = admit(Intake(), content(UNREADABLE, workloads=(listed,)), memory)
    assert ports(intake) == {"one": 1}
    assert stale(intake) == ["one"]
    assert [each.netns for each in intake.workloads] == ["w"]


def test_memory_is_not_asked_about_files_that_are_good_or_known() -> None:
    memory = Remembered(after(content(document(policy("one", "1"), policy("old")))))
    good = admit(Intake(), content(document(policy("one", "2"))), memory)
    assert ports(good) == {"one": 2}
    assert ports(admit(good, content(UNREADABLE), memory)) == {"one": 2}


def services(*entries: str, source: str = "w.yaml") -> Document:
    return Document(source, "\n- ".join(("services:", *entries)).encode())


def addresses(intake: Intake) -> dict[str, str]:
    return {service.name: str(service.ips[0]) for service in intake.services}


def test_a_broken_service_stays_in_its_last_good_version() -> None:
    good = services("{name: a, ips: [192.0.2.1]}", "{name: b, ips: [192.0.2.2]}")
    assert addresses(after(content(workloads=(good,)))) == {"a": "192.0.2.1", "b": "192.0.2.2"}
    broken = services("{name: a, ips: [nowhere]}", "{name: b, ips: [192.0.2.3]}")
    assert addresses(after(content(workloads=(good,)), content(workloads=(broken,)))) == {
        "a": "192.0.2.1",
        "b": "192.0.2.3",
    }
    unreadable = Document("w.yaml", b"a: b: c\n")
    assert addresses(after(content(workloads=(good,)), content(workloads=(unreadable,)))) == {
        "a": "192.0.2.1",
        "b": "192.0.2.2",
    }
    assert addresses(after(content(workloads=(good,)), content())) == {}
    nameless = services("{ips: [192.0.2.1]}")
    assert len(addresses(after(content(workloads=(good,)), content(workloads=(nameless,))))) == 2


def test_a_service_listed_in_two_files_is_the_first_files() -> None:
    files = (services("{name: a, ips: [192.0.2.1]}"), services("{name: a, ips: [192.0.2.2]}", source="x.yaml"))
    intake = after(content(workloads=files))
    assert addresses(intake) == {"a": "192.0.2.1"}
    assert "service default/a is already defined at w.yaml:2; this one is ignored" in errors(intake)[0]


def secret(value: str, name: str = "token") -> str:
    return f"""
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{token: {value}}}
"""


WITH_SECRET = policy("one").replace(
    "protocol: TCP}]",
    "protocol: TCP}], rules: {http: [{headerMatches: [{name: x-token, secret: {name: token}}]}]}",
)


def values(intake: Intake) -> dict[str, str]:
    return {str(ref): value for ref, value in intake.header_values.values.items()}


def lacking(intake: Intake) -> list[str]:
    return [str(problem) for problems in intake.lacking.values() for problem in problems]


def test_a_secret_stands_beside_policies_and_may_change() -> None:
    beside = content(document(WITH_SECRET, secret("hush")))
    apart = content(document(WITH_SECRET), document(secret("hush"), source="b.yaml"))
    changed = content(document(WITH_SECRET), document(secret("new"), source="b.yaml"))
    assert values(after(beside)) == values(after(apart)) == {"default/token": "hush"}
    assert values(after(apart, changed)) == {"default/token": "new"}
    assert lacking(after(apart, changed)) == []


def test_a_secret_that_is_gone_or_useless_is_told_at_the_policy_that_needs_it() -> None:
    (told,) = lacking(after(content(document(WITH_SECRET, secret("hush"))), content(document(WITH_SECRET))))
    assert "secret default/token is missing: the rule that needs it matches no request" in told
    (told,) = lacking(after(content(document(WITH_SECRET, secret('"hush\\n"')))))
    assert "has a line break" in told
    assert "hush" not in told
    assert lacking(after(content(document(policy("one"))))) == []


def test_a_broken_secret_keeps_its_last_good_value() -> None:
    good, broken = document(WITH_SECRET, secret("hush")), document(WITH_SECRET, secret("[hush2]"))
    intake = after(content(good), content(broken))
    assert values(intake) == {"default/token": "hush"}
    assert [str(ref) for ref in intake.stale_secrets] == ["default/token"]
    assert values(after(content(good), content(UNREADABLE))) == {"default/token": "hush"}
    assert "hush" not in "".join(map(str, intake.problems))
    assert "hush" not in repr(intake).replace(repr(good.data), "").replace(repr(broken.data), "")


def test_a_secret_in_two_files_is_the_first_ones() -> None:
    intake = after(content(document(secret("a")), document(secret("b"), source="b.yaml")))
    assert values(intake) == {"default/token": "a"}
    assert errors(intake) == [
        "b.yaml:2: metadata.name: Secret default/token is already defined at a.yaml:2; this one is ignored; "
        "give one of them another name"
    ]
