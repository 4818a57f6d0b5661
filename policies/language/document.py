"""YAML text as a tree of nodes that know their lines, safe to run on text that nobody has checked.

Events come from libyaml; the tree is built without recursion, in memory bounded by the limits below. The accepted
language is the one in which Kubernetes manifests are written, without anchors and tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from ..errors import UnreadableError

MAX_BYTES = 16 << 20
MAX_NODES = 1_000_000  # of a whole file
MAX_DOCUMENT_NODES = 250_000
DOCUMENT_COST = 20  # what starting a document takes, in nodes
MAX_BROKEN = 100  # documents of a file that cannot be read; then the rest is not looked at
MAX_DEPTH = 64

Value: TypeAlias = str | int | float | bool | None

# A line that starts like this begins a document wherever it stands (https://yaml.org/spec/1.2.2/#document-markers).
_MARKER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_EMPTY = re.compile(r"(?:---)?\s*")
_INTEGER = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SCALAR, _MAPPING, _ALIAS = yaml.ScalarEvent, yaml.MappingStartEvent, yaml.AliasEvent
_NODES = frozenset({_SCALAR, _MAPPING, yaml.SequenceStartEvent, _ALIAS})
_ENDS = frozenset({yaml.MappingEndEvent, yaml.SequenceEndEvent})
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    text: value
    for words, value in ((("true", "yes", "on"), True), (("false", "no", "off"), False))
    for word in words
    for text in (word, word.capitalize(), word.upper())
}


@dataclass(slots=True)
class Scalar:
    """A single value, with the text it was written as."""

    line: int
    value: Value
    text: str


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """Keys with their values; `key_lines` says where each key stands, `repeated` where a key came again."""

    line: int
    entries: dict[str, Node] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)


Node: TypeAlias = Scalar | Sequence | Mapping


def decode(data: bytes) -> str:
    """The text of a file. Raises UnreadableError when it is too large or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"the file has {len(data)} bytes, more than the {MAX_BYTES} allowed; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"byte {error.start} is not UTF-8; save the file as UTF-8", line) from None


def split_documents(text: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each document, so that one that cannot be read does not hide the others."""
    line, start = 1, 0
    for marker in _MARKER.finditer(text):
        if not _EMPTY.fullmatch(text, start, marker.start()):
            yield line, text[start : marker.start()]
        line += text.count("\n", start, marker.start())
        start = marker.start()
    if not _EMPTY.fullmatch(text, start):
        yield line, text[start:]


def read_document(text: str, first_line: int = 1, max_nodes: int = MAX_DOCUMENT_NODES) -> tuple[list[Node], int]:
    """The roots in one piece of `split_documents` (usually one, none when it is empty) and the number of nodes read.

    Raises UnreadableError, with the line, for anything that is not plain YAML.
    """
    loader = yaml.CSafeLoader(text)
    try:
        return _build(loader.get_event, first_line, max_nodes)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = first_line + mark.line if mark else first_line
        raise UnreadableError(f"not YAML: {error.problem or error.context}", line) from None
    except yaml.YAMLError as error:
        raise UnreadableError(f"not YAML: {str(error).splitlines()[0]}", first_line) from None
    finally:
        loader.dispose()


def read_documents(data: bytes) -> Iterator[Node | UnreadableError]:
    """The roots of all documents of a file; in the place of a piece that cannot be read, why not.

    One line of JSON, as APIs give it, has no lines worth telling: there everything is in line 0.
    """
    try:
        text = decode(data)
    except UnreadableError as error:
        yield error
        return
    left, broken = MAX_NODES, 0
    one_line = text.startswith("{") and "\n" not in text  # from an API, not from an editor: 0 is no line
    for line, piece in [(0, text)] if one_line else split_documents(text):
        if left <= 0:
            yield UnreadableError(f"more than {MAX_NODES} values in one file; split it", line)
            return
        if broken >= MAX_BROKEN:
            yield UnreadableError(f"{broken} documents of the file cannot be read; the rest was not looked at", line)
            return
        try:
            roots, nodes = read_document(piece, line, min(left, MAX_DOCUMENT_NODES))
        except UnreadableError as error:
            broken += 1
            left -= DOCUMENT_COST + len(piece) // 8  # a piece that was refused has cost time too
            yield error
        else:
            left -= DOCUMENT_COST + nodes
            yield from roots


def is_empty(node: Node) -> bool:
    """True for null, `[]` and `{}`."""
    match node:
        case Scalar():
            return node.value is None
        case Sequence():
            return not node.items
        case Mapping():
            return not node.entries


def _resolve(text: str) -> Value:
    """What a plain (unquoted) scalar means, as Kubernetes' YAML reader sees it."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] in "-+.0123456789" and len(text) <= 32:
        if _INTEGER.fullmatch(text):
            digits = text.replace("_", "")
            sign = -1 if digits[0] == "-" else 1
            digits = digits.lstrip("+-")
            octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
            return sign * int(digits, 8 if octal else 0)
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _build(next_event: Callable[[], Any], first_line: int, max_nodes: int) -> tuple[list[Node], int]:
    """The roots, and how many nodes there are. One loop without calls: it takes half of the time of a start."""
    roots: list[Node] = []
    nodes = 0
    outer: list[Sequence | Mapping | None] = []
    parent: Sequence | Mapping | None = None
    waiting: tuple[str, int] | None = None  # the key in `parent`, a mapping, that has no value yet
    while (event := next_event()) is not None:
        kind = type(event)
        if kind in _ENDS:
            parent = outer.pop()
            continue
        if kind not in _NODES:
            continue
        line = first_line + event.start_mark.line
        nodes += 1
        if nodes > max_nodes:
            raise UnreadableError(f"more than {max_nodes} values in one document; split it", line)
        if event.anchor is not None:
            if kind is _ALIAS:
                raise UnreadableError(f"the alias *{event.anchor} is not accepted; write the value out", line)
            raise UnreadableError(f"the anchor &{event.anchor} is not accepted; write the value out where needed", line)
        if event.tag is not None and event.tag != "!":
            raise UnreadableError(f"the tag {event.tag} is not accepted; remove it", line)
        node: Node
        if kind is _SCALAR:
            text = event.value
            if waiting is None and type(parent) is Mapping:
                waiting = (text, line)
                continue
            node = Scalar(line, _resolve(text) if event.implicit[0] else text, text)
        else:
            node = Mapping(line) if kind is _MAPPING else Sequence(line)
        if parent is None:
            if not (type(node) is Scalar and node.value is None):
                roots.append(node)
        elif type(parent) is Sequence:
            parent.items.append(node)
        elif type(parent) is Mapping:
            if waiting is None:
                raise UnreadableError("a list or mapping cannot be a key", line)
            key, key_line = waiting
            if key in parent.entries:
                parent.repeated.append(waiting)
            else:
                parent.entries[key] = node
                parent.key_lines[key] = key_line
            waiting = None
        if not isinstance(node, Scalar):
            outer.append(parent)
            parent = node
            if len(outer) > MAX_DEPTH:
                raise UnreadableError(f"nested deeper than {MAX_DEPTH} levels", line)
    return roots, nodes
