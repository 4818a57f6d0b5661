"""Test files of policies: what they may hold."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from lockgate.policies import (
    Direction,
    DnsRequest,
    Flow,
    HttpRequest,
    KafkaRequest,
    Protocol,
    TlsRequest,
    Verdict,
    World,
    endpoint_of,
    parse_policies,
)
from lockgate.policies.policy_test import Case, FileRef, PolicyTest, parse_policy_test, run_case
from lockgate.policies.secret import header_values
from lockgate.policies.workload import Workload

HEAD = "policies: p.yaml\nworkloads: w.yaml\ntests:\n"
CASE = "- {name: a, from: web, to: db, port: 80, expect: allow}\n"


def parse(text: str) -> PolicyTest:
    return parse_policy_test(text.encode(), "x.test.yaml")


def only_case(text: str) -> Case:
    test = parse(HEAD + text)
    assert test.problems == ()
    (case,) = test.cases
    return case


def test_the_smallest_file() -> None:
    test = parse(HEAD + CASE)
    assert test == PolicyTest(
        "x.test.yaml",
        policies=(FileRef("p.yaml", 1, "policies"),),
        workload_files=(FileRef("w.yaml", 2, "workloads"),),
        cases=(Case("a", Flow("web", "db", 80), Verdict.ALLOW, line=4),),
    )
    assert test.ok


def test_policies_may_be_several() -> None:
    test = parse("policies: [a.yaml, ../b]\nworkloads: w.yaml\ntests:\n" + CASE)
    assert test.policies == (FileRef("a.yaml", 1, "policies[0]"), FileRef("../b", 1, "policies[1]"))


def test_workloads_services_and_names_in_the_file_itself() -> None:
    test = parse("""\
policies: p.yaml
workloads:
- {name: web, labels: {app: web}, ips: [10.0.0.1], ports: {http: 8080}}
services:
- {name: db, selector: {app: db}}
names:
  API.example.com.: [192.0.2.1, "2001:db8::1"]
tests:
- {name: a, from: web, to: 192.0.2.1, port: 80, expect: allow}
""")
    assert test.problems == ()
    (workload,) = test.workloads
    assert (workload.key, workload.labels, workload.source, workload.line) == (
        "default/web",
        (("app", "web"),),
        "x.test.yaml",
        3,
    )
    assert [service.key for service in test.services] == ["default/db"]
    assert test.names == (("api.example.com", frozenset({ip_address("192.0.2.1"), ip_address("2001:db8::1")})),)
    assert test.workload_files == ()


def test_services_stand_beside_a_workloads_file() -> None:
    test = parse("services: [{name: db}]\n" + HEAD + CASE)
    assert [service.key for service in test.services] == ["default/db"]
    assert test.workload_files


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("http: {}", HttpRequest("GET", "/")),
        (
            "http: {method: PUT, path: /x?y=1, host: h, headers: {A: b, a: [c, d]}}",
            HttpRequest("PUT", "/x?y=1", "h", {"a": "b,c,d"}),
        ),
        ("grpc: {service: p.S, method: M}", HttpRequest("POST", "/p.S/M", "", {"content-type": "application/grpc"})),
        ("kafka: {apiKey: produce, topics: [t]}", KafkaRequest(0, topics=frozenset({"t"}))),
        ("dns: {name: example.com}", DnsRequest("example.com")),
        ("tls: {serverName: Example.com}", TlsRequest("example.com")),
    ],
)
def test_requests(text: str, request_: object) -> None:
    case = only_case(f"- {{name: a, from: web, to: db, port: 80, expect: allow, {text}}}\n")
    assert case.flow.request == request_


def test_everything_a_case_can_say() -> None:
    case = only_case("""\
- name: a
  from: x/web
  to: db
  port: "53"
  protocol: udp
  expect: redirect
  rule: x/p:spec.egress[0]
  direction: egress
""")
    assert case.flow == Flow("x/web", "db", 53, Protocol.UDP)
    assert (case.expect, case.direction, str(case.rule)) == (Verdict.REDIRECT, Direction.EGRESS, "x/p:spec.egress[0]")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.test.yaml: the file has 0 documents; write one: policies, workloads and tests"),
        ("a: 1\n---\nb: 1\n", "x.test.yaml: the file has 2 documents; write one: policies, workloads and tests"),
        ("[]", "x.test.yaml:1: a mapping expected, not a list"),
        (HEAD + "- [", "x.test.yaml:5: not YAML: did not find expected node content"),
        (
            "workloads: w\ntests:\n" + CASE,
            "x.test.yaml:1: the test has no policies; write policies: and a file or folder",
        ),
        (
            "policies: p\ntests:\n" + CASE,
            "x.test.yaml:1: the test has no workloads; write workloads: and a list of them, or a file",
        ),
        (
            "policies: p\nworkloads: w\n",
            "x.test.yaml:1: the test has no tests; "
            "write tests: and a list of flows with expect: allow, deny or redirect",
        ),
        (
            "policies: p\nworkloads: w\ntests: []\n",
            "x.test.yaml:3: tests: the file tests nothing; "
            "write at least one flow with expect: allow, deny or redirect",
        ),
        (
            "policies: []\nworkloads: w\ntests:\n" + CASE,
            "x.test.yaml:1: policies: the test has no policies; write a file or folder",
        ),
        (
            "policies: ['']\nworkloads: w\ntests:\n" + CASE,
            "x.test.yaml:1: policies[0]: an empty path; write a file or folder, relative to this file",
        ),
        (
            "policies: p\nworkloads: {a: 1}\ntests:\n" + CASE,
            "x.test.yaml:2: workloads: a list expected, not a mapping",
        ),
        (
            "policy: p\n" + HEAD + CASE,
            "x.test.yaml:1: policy: unknown field 'policy'; did you mean 'policies'?",
        ),
        (
            "policies: p\nworkloads:\n- {name: web, lables: {a: b}}\ntests:\n" + CASE,
            "x.test.yaml:3: workloads[0].lables: unknown field 'lables'; did you mean 'labels'?",
        ),
        (
            "names: {a.example.com: [10.0.0.0/8]}\n" + HEAD + CASE,
            "x.test.yaml:1: names[a.example.com][0]: '10.0.0.0/8' is not an IP address; write the address alone",
        ),
        (HEAD + "- 1\n", "x.test.yaml:4: tests[0]: a mapping expected, not the number 1"),
        (
            HEAD + CASE + CASE,
            "x.test.yaml:5: tests[1]: a second test with the name 'a' (first in line 4)",
        ),
    ],
)
def test_a_file_that_is_wrong(text: str, problem: str) -> None:
    test = parse(text)
    assert [str(found) for found in test.problems] == [problem]
    assert not test.ok


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "from: a, to: b, port: 1, expect: allow",
            "tests[0]: the test has no name; write name: and what the policy is",
        ),
        ("name: '', from: a, to: b, port: 1, expect: allow", "tests[0].name: an empty name"),
        ("name: n, to: b, port: 1, expect: allow", "tests[0]: the test has no from; write from: and a workload"),
        ("name: n, from: a, port: 1, expect: allow", "tests[0]: the test has no to; write to: and a workload"),
        ("name: n, from: a, to: b, expect: allow", "tests[0]: the test has no port; write port: and the number"),
        ("name: n, from: a, to: b, port: 1", "tests[0]: the test has no expect; write expect: and one of allow, deny"),
        (
            "name: n, from: a, to: b, port: 1, expect: drop",
            "tests[0].expect: unknown verdict 'drop'; use one of: allow, deny, redirect",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, methd: GET",
            "tests[0].methd: unknown field 'methd'",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, protocl: TCP",
            "tests[0].protocl: unknown field 'protocl'; did you mean 'protocol'?",
        ),
        (
            "name: n, from: a, to: b, port: 65536, expect: allow",
            "tests[0].port: 'port' must be a number from 0 to 65535, not 65536",
        ),
        ("name: n, from: a, to: b, port: [1], expect: allow", "tests[0].port: 'port' must be a number from 0 to 65535"),
        (
            "name: n, from: a, to: b, port: 1, protocol: QUIC, expect: allow",
            "tests[0].protocol: unknown protocol 'QUIC'; use one of: TCP, UDP, SCTP, ICMP, ICMPv6",
        ),
        (
            "name: n, from: a, to: b, port: 1, protocol: 6, expect: allow",
            "tests[0].protocol: 'protocol' must be text, not 6",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, direction: in",
            "tests[0].direction: unknown direction 'in'; ",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, rule: 'a b'",
            "tests[0].rule: 'a b' names no rule; write policy, namespace/policy or namespace/policy:spec.ingress[0]",
        ),
        ("name: n, from: a, to: b, port: 1, expect: allow, rule: 1", "tests[0].rule: text expected, not the number 1"),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, http: {}, dns: {name: x}",
            "tests[0]: the test has both http and dns; write one test for each",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, http: {metod: GET}",
            "tests[0].http.metod: unknown field 'metod'; did you mean 'method'?",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, http: {headers: {a: b, a: c}}",
            "tests[0].http.headers.a: written twice, first in line 4; remove one of the two",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, http: {headers: {a: 1}}",
            "tests[0].http: the header 'a' must be text or a list of texts",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, kafka: {apiKey: prduce}",
            "tests[0].kafka: unknown Kafka API 'prduce'; did you mean 'produce'?",
        ),
        (
            "name: n, from: a, to: b, port: 1, expect: allow, http: GET",
            "tests[0].http: a mapping expected, not the text",
        ),
    ],
)
def test_a_case_that_is_wrong(text: str, problem: str) -> None:
    test = parse(HEAD + f"- {{{text}}}\n" + CASE)
    assert len(test.problems) == 1
    assert str(test.problems[0]).startswith(f"x.test.yaml:4: {problem}")
    assert [case.name for case in test.cases] == ["a"]


def test_all_that_is_wrong_in_one_go() -> None:
    test = parse(HEAD + "- {name: n, from: 1, to: b, port: x, protocol: y, expect: z}\n- {}\n")
    assert [problem.path for problem in test.problems] == [
        "tests[0].from",
        "tests[0].expect",
        "tests[0].port",
        "tests[0].protocol",
        *["tests[1]"] * 5,
    ]


HEADERS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: headers}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - headerMatches:
          - {name: X-Role, value: guest, mismatch: REPLACE}
          - {name: X-Token, secret: {name: token}, mismatch: REPLACE}
---
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {token: hush}
"""


@pytest.mark.parametrize(
    ("arrives", "fault"),
    [
        ("{x-role: guest, X-Token: hush, x-other: null}", ""),
        ("{X-Role: admin}", "header x-role arrives as 'guest', expected 'admin'"),
        ("{X-Other: a}", "header x-other does not arrive, expected 'a'"),
        ("{X-Role: null}", "header x-role arrives as 'guest', expected none"),
        ("{X-Token: loud}", "header x-token arrives as a value from a secret, expected 'loud'"),
    ],
)
def test_headers_arrive_as_the_policy_leaves_them(arrives: str, fault: str) -> None:
    parsed = parse_policies(HEADERS.encode(), "p.yaml")
    endpoints = [endpoint_of(Workload(name, "default", ())) for name in ("a", "b")]
    world = World.of(parsed.policies, endpoints, secrets=header_values(parsed.secrets).values)
    case = only_case(f"- {{name: n, from: a, to: b, port: 80, http: {{}}, expect: allow, arrives: {arrives}}}")
    assert run_case(world, case).fault == fault


def test_only_what_is_allowed_arrives() -> None:
    for rest in ("expect: deny, http: {}", "expect: allow", "expect: allow, tls: {serverName: a}"):
        (problem,) = parse(f"{HEAD}- {{name: n, from: a, to: b, port: 80, {rest}, arrives: {{a: b}}}}").problems
        assert (problem.path, problem.message) == ("tests[0].arrives", "only an HTTP request that is allowed arrives")
