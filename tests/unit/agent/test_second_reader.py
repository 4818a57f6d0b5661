from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import BinaryIO

import pytest
from lockgate.agent.supply import second_reader
from lockgate.agent.supply.intake import Intake, NoMemory, admit
from lockgate.agent.supply.second_reader import SecondReader
from lockgate.policies import ParsedPolicies, parse_policies
from lockgate.store import Document, StoreContent

POLICY = """apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p{number}}}
spec: {{endpointSelector: {{}}, ingress: [{{fromEndpoints: [{{matchLabels: {{app: "{number}"}}}}]}}]}}
"""
DOCUMENTS = [
    *(Document(f"{number}.yaml", POLICY.format(number=number).encode()) for number in range(20)),
    Document("broken.yaml", b"kind: [", ""),
    Document("gone.yaml", b"", "gone.yaml: no such file"),
    *(Document(f"{number}.yaml", POLICY.format(number=number).encode()) for number in range(30, 40)),
]
CONTENT = StoreContent(tuple(DOCUMENTS), ())
ALONE = admit(Intake(), CONTENT, NoMemory())


def read(reader: SecondReader) -> Intake:
    try:
        return admit(Intake(), CONTENT, NoMemory(), reader.parse)
    finally:
        reader.close()


def test_two_read_what_one_reads() -> None:
    assert read(SecondReader(DOCUMENTS, few=3)) == ALONE


def test_both_share_what_is_the_same_in_many_policies() -> None:
    subjects = [policy.rules[0].subject for policy in read(SecondReader(DOCUMENTS, few=3)).policies]
    assert len(subjects) == 30
    assert all(subject is subjects[0] for subject in subjects)


def test_a_few_need_no_process() -> None:
    reader = SecondReader(DOCUMENTS)
    assert reader.process is None
    assert read(reader) == ALONE


def test_what_a_process_that_died_does_not_answer_is_read_here() -> None:
    reader = SecondReader(DOCUMENTS, few=3)
    assert reader.process is not None
    reader.process.kill()
    reader.process.wait()
    assert read(reader) == ALONE


def test_a_process_answers_all_before_it_is_asked_and_ends() -> None:
    many = tuple(Document(f"{number}.yaml", POLICY.format(number=number).encode()) for number in range(6000))
    reader = SecondReader(many)
    assert reader.process is not None
    assert reader.process.wait(60) == 0
    try:
        read = [reader.parse(document).policies[0].key.name for document in many]
    finally:
        reader.close()
    assert read == [f"p{number}" for number in range(6000)]


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.5, 0.95, 1.0])
def test_where_they_meet_all_are_read(monkeypatch: pytest.MonkeyPatch, cut: float) -> None:
    """Of its answers there is a part when it is asked, which may end anywhere; the rest would come too late."""
    whole = SecondReader(DOCUMENTS, few=3, chunk=4)
    assert whole.process is not None
    whole.process.wait(60)
    answers = os.pread(whole._file.fileno(), 1 << 20, 0)
    whole.close()

    def begun(chunks: Sequence[Sequence[Document]], out: BinaryIO) -> subprocess.Popen[bytes]:
        out.write(answers[: int(len(answers) * cut)])
        out.flush()
        return subprocess.Popen(["sleep", "60"])

    def parse_here(data: bytes, source: str) -> ParsedPolicies:
        here.append(source)
        return parse_policies(data, source)

    here: list[str] = []
    monkeypatch.setattr(second_reader, "_start", begun)
    monkeypatch.setattr(second_reader, "parse_policies", parse_here)
    reader = SecondReader(DOCUMENTS, few=3, chunk=4)
    process = reader.process
    assert read(reader) == ALONE
    assert process is not None and process.returncode is not None, "it is ended"
    readable = [each.source for each in DOCUMENTS if not each.failure]
    assert here == readable[: len(here)], "from the first to where they met"
    assert len(here) >= len(readable) // 4
    assert (len(here) < len(readable)) == (cut > 0.2)


def test_what_is_asked_for_out_of_turn_is_read_here() -> None:
    reader = SecondReader(DOCUMENTS, few=3)
    try:
        asked = list(reversed(DOCUMENTS))
        assert [reader.parse(each) for each in asked[:9]] == [
            parse_policies(each.data, each.source) for each in asked[:9]
        ]
    finally:
        reader.close()
