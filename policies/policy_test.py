"""Tests of policies: flows with the verdicts that their author expects.

policies: api-access-control.yaml     # a file, a folder, or a list of them, relative to this file
workloads:                            # a list as in a workloads file, or the name of such a file
- {name: frontend, labels: {role: frontend}}
- {name: api-server, labels: {app: api-server}}
services: []                          # as in a workloads file; may be left out
names: {api.example.com: [192.0.2.1]} # the addresses that DNS answers have shown; may be left out
tests:
- name: the frontend reads the users
  from: frontend                      # a flow as `policy explain` takes it
  to: api-server
  port: 80
  http: {method: GET, path: /api/v1/users}
  expect: allow                       # allow, deny or redirect
  rule: default/api-access-control:spec.ingress[0]   # who must have decided; may be left out
  direction: ingress                  # judge this direction alone; without it both must agree
  arrives: {X-Role: guest}            # headers as the server gets them (null: it does not); may be left out
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

from .endpoint_policy import Direction, Protocol, RuleOrigin
from .errors import FlowError, UnreadableError
from .explain import Explanation, explain
from .flow import REQUEST_FIELDS, Flow, parse_port, parse_protocol, parse_request
from .language.document import Mapping, Node, Scalar, Sequence, decode, read_document, split_documents
from .language.fields import Field, Findings, shorten, suggest
from .language.problem import Problem
from .language.workload_file import read_workloads
from .request import HttpRequest, Request
from .resolve import LOCAL_HOST
from .service import Service
from .verdict import Judgement, Verdict
from .workload import IPAddress, Workload
from .world import World

T = TypeVar("T")

_FIELDS = ("policies", "workloads", "services", "names", "tests")
_CASE_FIELDS = ("name", "from", "to", "port", "protocol", *REQUEST_FIELDS, "expect", "rule", "direction", "arrives")
_RULE = re.compile(r"(?:(?P<namespace>[-a-z0-9]+)/)?(?P<policy>[-a-z0-9.]+)(?::(?P<path>[^\s:]+))?")


class FileRef(NamedTuple):
    """A file or folder as it is named in line `line`, under `field`."""

    path: str
    line: int
    field: str


class WantedRule(NamedTuple):
    """The rule that must have decided. An empty `namespace` or `path` is any."""

    namespace: str
    policy: str
    path: str

    def is_at(self, origin: RuleOrigin) -> bool:
        """True for the rule itself and for every part of it: spec.ingress[0] holds spec.ingress[0].toPorts[1]."""
        if self.policy != origin.policy or self.namespace not in ("", origin.namespace):
            return False
        rest = origin.path.removeprefix(self.path)
        return not self.path or (rest != origin.path and (not rest or rest[0] in ".["))

    def __str__(self) -> str:
        namespace = f"{self.namespace}/" if self.namespace else ""
        return f"{namespace}{self.policy}{':' if self.path else ''}{self.path}"


@dataclass(frozen=True, slots=True)
class Case:
    """One flow and what must come of it. With `direction` the other direction does not count.

    `arrives` are (lower-case name, value) of headers as the server gets them, None for one that it does not get.
    """

    name: str
    flow: Flow
    expect: Verdict
    rule: WantedRule | None = None
    direction: Direction | None = None
    line: int = 0
    arrives: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A test file. `policies` and `workload_files` are still to be read; `workloads` and `services` stand in the file.

    `cases` are the ones without a problem.
    """

    source: str
    problems: tuple[Problem, ...] = ()
    policies: tuple[FileRef, ...] = ()
    workload_files: tuple[FileRef, ...] = ()
    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    names: tuple[tuple[str, frozenset[IPAddress]], ...] = ()
    cases: tuple[Case, ...] = ()

    @property
    def ok(self) -> bool:
        """True when there is no error."""
        return not any(problem.is_error for problem in self.problems)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case. `fault` is empty when it passed; `verdict` is None when there was nothing to judge with."""

    case: Case
    verdict: Verdict | None
    reason: str
    fault: str = ""
    explanation: Explanation | None = None

    @property
    def passed(self) -> bool:
        """True when everything expected came."""
        return not self.fault


def parse_policy_test(data: bytes, source: str) -> PolicyTest:
    """A test file from its bytes. Nothing is raised: all that is wrong is in `problems`."""
    findings = Findings(source, {})
    roots: list[Node] = []
    try:
        for line, piece in split_documents(decode(data)):
            roots += read_document(piece, line)[0]
    except UnreadableError as error:
        findings.add(error.line, "", error.message)
        return PolicyTest(source, findings.sorted())
    if len(roots) != 1:
        findings.add(0, "", f"the file has {len(roots)} documents", "write one: policies, workloads and tests")
        return PolicyTest(source, findings.sorted())
    return _read_test(Field(roots[0], findings))


def run_case(world: World, case: Case) -> CaseResult:
    """Judge one flow and compare."""
    try:
        explanation = explain(world, case.flow)
    except FlowError as error:
        return CaseResult(case, None, "", str(error))
    sides = {Direction.EGRESS: explanation.egress, Direction.INGRESS: explanation.ingress}
    verdict, reason = explanation.verdict, explanation.reason
    if case.direction is not None:
        side = sides[case.direction]
        sides = {case.direction: side}
        verdict = side.verdict if side is not None else Verdict.ALLOW
        reason = f"{case.direction}: {side.reason if side is not None else 'nobody of ours, so nothing judges it'}"
    fault = ""
    if verdict is not case.expect:
        fault = f"expected {case.expect}, got {verdict}"
    elif case.rule is not None:
        fault = _rule_fault(world, case.rule, verdict, sides.values())
    if not fault and (request := explanation.arriving) is not None:
        faults = (_arrival_fault(request, name, value) for name, value in case.arrives)
        fault = "; ".join(filter(None, faults))
    return CaseResult(case, verdict, reason, fault, explanation)


def _rule_fault(world: World, wanted: WantedRule, verdict: Verdict, sides: Iterable[Judgement | None]) -> str:
    """Why the verdict is not the wanted rule's; empty when it is."""
    deciding = [side.rule.origin for side in sides if side is not None and side.rule and side.verdict is verdict]
    if any(wanted.is_at(origin) for origin in deciding):
        return ""
    keys = [policy.key for policy in world.policies]
    known = any(key.name == wanted.policy and wanted.namespace in ("", key.namespace) for key in keys)
    if not known and wanted.policy != LOCAL_HOST.origin.policy:
        hint = suggest(str(wanted._replace(path="")), tuple(str(key) for key in keys))
        return f"no policy is called {wanted._replace(path='')}{'; ' + hint if hint else ''}"
    decided = f"{' and '.join(map(str, deciding))} did" if deciding else "no rule did, but the default"
    return f"expected {wanted} to decide, {decided}"


def _arrival_fault(request: HttpRequest, name: str, wanted: str | None) -> str:
    """What is wrong with one header as the server gets it; empty when nothing is."""
    if (found := request.header(name)) == wanted:
        return ""
    shown = "a value from a secret" if name in request.hidden else f"'{found}'"
    said = f"header {name} does not arrive" if found is None else f"header {name} arrives as {shown}"
    return f"{said}, expected {'none' if wanted is None else repr(wanted)}"


def _read_test(root: Field) -> PolicyTest:
    findings = root.findings
    fields = root.mapping(_FIELDS)
    if fields is None:
        return PolicyTest(findings.source, findings.sorted())
    for name, hint in (
        ("policies", "write policies: and a file or folder"),
        ("workloads", "write workloads: and a list of them, or a file"),
        ("tests", "write tests: and a list of flows with expect: allow, deny or redirect"),
    ):
        if name not in fields:
            root.error(f"the test has no {name}", hint)
    elsewhere = "workloads" in fields and isinstance(fields["workloads"].node, Scalar)
    inline = read_workloads(_only(root, ("services",) if elsewhere else ("workloads", "services")))
    names = tuple(_names(fields["names"])) if "names" in fields else ()
    cases = tuple(_cases(fields["tests"])) if "tests" in fields else ()
    policies = tuple(_policies(fields["policies"])) if "policies" in fields else ()
    files = tuple(_files(fields["workloads"])) if elsewhere else ()
    return PolicyTest(
        findings.source, findings.sorted(), policies, files, inline.workloads, inline.services, names, cases
    )


def _only(root: Field, names: tuple[str, ...]) -> Field:
    """The document with these of its fields alone."""
    assert isinstance(root.node, Mapping)
    entries = {name: node for name, node in root.node.entries.items() if name in names}
    return Field(Mapping(root.node.line, entries, root.node.key_lines), root.findings)


def _policies(field: Field) -> Iterator[FileRef]:
    if not isinstance(field.node, Sequence):
        yield from _files(field)
        return
    items = field.items()
    if not items:
        field.error("the test has no policies", "write a file or folder")
    for item in items:
        yield from _files(item)


def _files(field: Field) -> Iterator[FileRef]:
    text = field.text()
    if text == "":
        field.error("an empty path", "write a file or folder, relative to this file")
    elif text is not None:
        yield FileRef(text, field.line, field.path)


def _names(field: Field) -> Iterator[tuple[str, frozenset[IPAddress]]]:
    for name, item in (field.mapping(None) or {}).items():
        addresses: set[IPAddress] = set()
        for entry in item.items():
            text = entry.text()
            try:
                addresses |= {ip_address(text)} if text is not None else set()
            except ValueError:
                entry.error(f"'{shorten(str(text))}' is not an IP address", "write the address alone")
        yield name.lower().removesuffix("."), frozenset(addresses)


def _cases(field: Field) -> Iterator[Case]:
    items = field.items()
    if isinstance(field.node, Sequence) and not items:
        field.error("the file tests nothing", "write at least one flow with expect: allow, deny or redirect")
    first: dict[str, int] = {}
    for item in items:
        before = field.findings.errors
        case = _case(item)
        if case is None or field.findings.errors > before:
            continue
        if case.name in first:
            item.error(f"a second test with the name '{shorten(case.name)}' (first in line {first[case.name]})")
        first.setdefault(case.name, case.line)
        yield case


def _case(field: Field) -> Case | None:
    fields = field.mapping(_CASE_FIELDS)
    if fields is None:
        return None
    for needed, hint in _NEEDED.items():
        if needed not in fields:
            field.error(f"the test has no {needed}", hint)
    name, source, destination = (fields[key].text() if key in fields else None for key in ("name", "from", "to"))
    expect = fields["expect"].choice(Verdict, "verdict") if "expect" in fields else None
    direction = fields["direction"].choice(Direction, "direction") if "direction" in fields else None
    rule = _rule(fields["rule"]) if "rule" in fields else None
    request = _request(field, fields)
    arrives = _arrives(fields["arrives"], request, expect) if "arrives" in fields else ()
    port = _parsed(fields["port"], parse_port) if "port" in fields else None
    protocol = _parsed(fields["protocol"], parse_protocol) if "protocol" in fields else Protocol.TCP
    if name == "":
        fields["name"].error("an empty name", _NEEDED["name"])
    if not name or source is None or destination is None or port is None or protocol is None or expect is None:
        return None
    return Case(name, Flow(source, destination, port, protocol, request), expect, rule, direction, field.line, arrives)


def _arrives(field: Field, request: Request | None, expect: Verdict | None) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(request, HttpRequest) or expect is not Verdict.ALLOW:
        field.error("only an HTTP request that is allowed arrives", "write it beside http or grpc and expect: allow")
    if not isinstance(field.node, Mapping):
        field.mapping(None)
        return ()
    field.mapping(None)  # for repeated names
    entries = {name: Field(node, field.findings, field, name) for name, node in field.node.entries.items()}
    return tuple((name.lower(), None if item.is_null else item.text()) for name, item in entries.items())


def _parsed(field: Field, parse: Callable[[object], T]) -> T | None:
    try:
        return parse(field.value)
    except FlowError as error:
        field.error(str(error))
        return None


_NEEDED = {
    "name": "write name: and what the policy is for, in words",
    "from": "write from: and a workload, an IP address or reserved:world",
    "to": "write to: and a workload, an IP address or reserved:world",
    "port": "write port: and the number that the client connects to",
    "expect": f"write expect: and one of {', '.join(Verdict)}",
}


def _rule(field: Field) -> WantedRule | None:
    text = field.text()
    if text is None:
        return None
    if (found := _RULE.fullmatch(text)) is None:
        field.error(
            f"'{shorten(text)}' names no rule", "write policy, namespace/policy or namespace/policy:spec.ingress[0]"
        )
        return None
    return WantedRule(found["namespace"] or "", found["policy"], found["path"] or "")


def _request(field: Field, fields: dict[str, Field]) -> Request | None:
    given = [kind for kind in REQUEST_FIELDS if kind in fields]
    if len(given) > 1:
        field.error(f"the test has both {given[0]} and {given[1]}", "write one test for each")
    for kind in given:
        before = field.findings.errors
        _refuse_repeated(fields[kind], REQUEST_FIELDS[kind])
        if field.findings.errors > before:
            return None
        try:
            return parse_request(kind, _plain(fields[kind].node))
        except FlowError as error:
            fields[kind].error(str(error))
    return None


def _refuse_repeated(field: Field, known: tuple[str, ...] | None) -> None:
    """Unknown and repeated names, at every level, with their lines."""
    for inner in (field.mapping(known) or {}).values():
        if isinstance(inner.node, Mapping):
            _refuse_repeated(inner, None)


def _plain(node: Node) -> object:
    """A node as decoded JSON, without null fields."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [_plain(item) for item in node.items]
        case Mapping():
            return {key: value for key, item in node.entries.items() if (value := _plain(item)) is not None}
