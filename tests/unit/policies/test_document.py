"""YAML from anybody: what is read, with which lines, and what is refused quickly."""

from __future__ import annotations

import resource

import pytest
from lockgate.policies.errors import UnreadableError
from lockgate.policies.language.document import (
    MAX_BROKEN,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DOCUMENT_NODES,
    Mapping,
    Node,
    Scalar,
    Sequence,
    Value,
    decode,
    is_empty,
    read_document,
    read_documents,
    split_documents,
)
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.workload_file import parse_workloads


def plain(node: Node) -> object:
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(value) for key, value in node.entries.items()}


def read(text: str) -> list[object]:
    return [plain(root) for root in read_document(text)[0]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", "a"),
        ("80", 80),
        ("+80", 80),
        ("-8_0", -80),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 15),
        ("0b101", 5),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        (".inf", float("inf")),
        ("-.Inf", float("-inf")),
        ("1.2.3.4", "1.2.3.4"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("08", 8.0),
        ("true", True),
        ("Yes", True),
        ("OFF", False),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ('"80"', "80"),
        ("'true'", "true"),
        ("9" * 40, "9" * 40),
    ],
)
def test_scalars_mean_what_kubernetes_reads(text: str, value: Value) -> None:
    assert read(f"k: {text}") == [{"k": value}]


def test_lines_count_from_the_first_line_of_the_file() -> None:
    pieces = list(split_documents("# head\na: 1\n---\nb:\n  - c\n---  \nd: |\n  ---\n  e\n"))
    assert [line for line, _ in pieces] == [1, 3, 6]
    (second,), _ = read_document(pieces[1][1], pieces[1][0])
    assert isinstance(second, Mapping)
    assert second.key_lines == {"b": 4}
    assert second.entries["b"].line == 5
    assert read(pieces[2][1]) == [{"d": "---\ne\n"}]


def test_empty_documents_are_nothing() -> None:
    assert [read(piece) for _, piece in split_documents("---\n---\n\n---\n# only a remark\n---\nnull\n")] == [[], []]
    assert list(split_documents("")) == []


def test_a_repeated_key_is_kept_aside() -> None:
    ((root,), _) = read_document("a: 1\nb: 2\na: 3\n")
    assert isinstance(root, Mapping)
    assert plain(root) == {"a": 1, "b": 2}
    assert root.repeated == [("a", 3)]


def test_is_empty() -> None:
    ((root,), _) = read_document("a: []\nb: {}\nc:\nd: [1]\ne: {f: 1}\ng: 0\n")
    assert isinstance(root, Mapping)
    assert {key: is_empty(node) for key, node in root.entries.items()} == {
        "a": True,
        "b": True,
        "c": True,
        "d": False,
        "e": False,
        "g": False,
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: &x 1\nb: *x\n", 1, "the anchor &x is not accepted"),
        ("a: 1\nb: *x\n", 2, "the alias *x is not accepted"),
        (
            "a: 1\nb: !!python/object:os.system x\n",
            2,
            "the tag tag:yaml.org,2002:python/object:os.system is not accepted",
        ),
        ("a: !!binary aGk=\n", 1, "the tag tag:yaml.org,2002:binary is not accepted"),
        ("a: 1\n b: 2\n", 2, "not YAML: mapping values are not allowed in this context"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML: did not find expected ',' or ']'"),
        ("a: 1\nb: \t- 2\n", 2, "not YAML:"),
        ("a: 1\n? [x]\n: 2\n", 2, "a list or mapping cannot be a key"),
        ("a: 1\nb: \x01\n", 1, "not YAML: unacceptable character #x0001: control characters are not allowed"),
        ("[" * (MAX_DEPTH + 2), 1, f"nested deeper than {MAX_DEPTH} levels"),
        ("a: {" * 5000, 1, f"nested deeper than {MAX_DEPTH} levels"),
        ("- " * 5000 + "a", 1, f"nested deeper than {MAX_DEPTH} levels"),
        ("a: [" + "1," * MAX_DOCUMENT_NODES + "]", 1, f"more than {MAX_DOCUMENT_NODES} values in one document"),
    ],
)
def test_refusals_say_where_and_what(text: str, line: int, message: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        read_document(text)
    assert raised.value.message.startswith(message)
    assert raised.value.line == line


def test_text_that_is_no_utf8() -> None:
    with pytest.raises(UnreadableError, match="byte 8 is not UTF-8") as raised:
        decode(b"a: 1\nb: \xff\xfe\n")
    assert raised.value.line == 2
    assert decode(b"\xef\xbb\xbfa: 1") == "a: 1"


def test_a_file_of_broken_documents_is_given_up() -> None:
    found = list(read_documents(b"---\n[\n" * (MAX_BROKEN + 50)))
    assert len(found) == MAX_BROKEN + 1
    assert isinstance(found[-1], UnreadableError)
    assert found[-1].message == f"{MAX_BROKEN} documents of the file cannot be read; the rest was not looked at"
    assert found[-1].line == 2 * MAX_BROKEN + 1


BOMBS = {
    "100 MB": b"a" * (100 << 20),
    "one byte too many": b" " * (MAX_BYTES + 1),
    "zeros": bytes(1 << 20),
    "billion laughs": b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*a,*a,*a,*a,*a,*a,*a,*a]\n" % (i, i) for i in range(9)),
    "deep flow": b"[" * (1 << 20),
    "deep mapping": b"{a: " * (1 << 18),
    "deep block": b"".join(b" " * i + b"a:\n" for i in range(2000)),
    "many values": b"workloads: [" + b"{}," * (1 << 20) + b"]",
    "many documents": b"---\na: 1\n" * 300_000,
    "many broken documents": b"---\n[\n" * 300_000,
    "many empty documents": b"---\n" * 1_000_000,
    "many problems": b"".join(b"x%d: 1\n" % i for i in range(100_000)),
    "long key": b"a" * (1 << 20) + b": 1",
    "quoted": b'a: "' + b"\\x41" * (1 << 20) + b'"',
    "utf-16": "a: 1".encode("utf-16"),
    "binary": bytes(range(256)) * 4096,
}


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_files_are_refused_in_bounded_memory(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for parse in (parse_policies, parse_workloads):
        parsed = parse(BOMBS[name], "bomb.yaml")
        errors = [problem for problem in parsed.problems if problem.is_error]
        assert errors or name == "many empty documents"
        assert len(parsed.problems) <= 201
        assert all(len(str(problem)) < 1000 for problem in parsed.problems)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
