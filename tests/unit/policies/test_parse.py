"""Files of policies: documents, keys, what is kept when a part is broken."""

from __future__ import annotations

from pathlib import Path

import lockgate.policies
import pytest
from lockgate.policies.language.parse import ParsedPolicies, parse_policies
from lockgate.policies.model import PolicyKey, PolicyKind

GOOD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %s, namespace: shop}
spec:
  endpointSelector: {}
  ingress: [{}]
"""
BAD = GOOD.replace("ingress", "ingres")


def parse(text: str) -> ParsedPolicies:
    return parse_policies(text.encode(), "f.yaml")


def names(parsed: ParsedPolicies) -> list[str]:
    return [str(policy.key) for policy in parsed.policies]


EXAMPLES = sorted(
    path
    for path in (Path(lockgate.policies.__file__).parent / "examples").glob("*.yaml")
    if not path.name.endswith(".test.yaml")  # beside a policy stands its `policy test` file
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_no_problems(path: Path) -> None:
    parsed = parse_policies(path.read_bytes(), path.name)
    assert parsed.problems == ()
    assert parsed.policies[0].key.name == path.stem


def test_a_good_file() -> None:
    parsed = parse(GOOD % "a" + "---\n" + GOOD % "b")
    assert names(parsed) == ["shop/a", "shop/b"]
    assert parsed.policies[1].line == 8
    assert parsed.policies[1].source == "f.yaml"
    assert parsed.policies[1].key == PolicyKey(PolicyKind.CILIUM, "shop", "b")
    assert parsed.ok
    assert not parsed.broken
    assert not parsed.unreadable


def test_a_broken_policy_does_not_hide_the_good_ones() -> None:
    parsed = parse(GOOD % "a" + "---\n" + BAD % "b" + "---\n" + GOOD % "c")
    assert names(parsed) == ["shop/a", "shop/c"]
    assert parsed.broken == {PolicyKey(PolicyKind.CILIUM, "shop", "b")}
    assert not parsed.unreadable
    assert not parsed.ok
    assert [problem.line for problem in parsed.problems] == [13]


def test_an_unreadable_document_does_not_hide_the_good_ones() -> None:
    parsed = parse(GOOD % "a" + "---\nkind: [\n---\n" + GOOD % "c")
    assert names(parsed) == ["shop/a", "shop/c"]
    assert parsed.unreadable
    assert not parsed.broken
    assert [str(problem) for problem in parsed.problems] == ["f.yaml:9: not YAML: did not find expected node content"]


def test_a_list_is_looked_into() -> None:
    items = "".join("- " + (GOOD % name).replace("\n", "\n  ").rstrip() + "\n" for name in "ab")
    parsed = parse("apiVersion: v1\nkind: List\nmetadata: {}\nitems:\n" + items)
    assert parsed.problems == ()
    assert names(parsed) == ["shop/a", "shop/b"]
    broken = parse("apiVersion: v1\nkind: List\nitems:\n" + items.replace("ingress", "ingres", 1))
    assert names(broken) == ["shop/b"]
    assert {problem.path for problem in broken.problems} == {"items[0].spec.ingres"}


def test_a_policy_written_twice() -> None:
    parsed = parse(GOOD % "a" + "---\n" + GOOD % "a")
    assert names(parsed) == ["shop/a"]
    (problem,) = parsed.problems
    assert str(problem) == (
        "f.yaml:8: CiliumNetworkPolicy shop/a is written twice in this file (first in line 1); remove one of the two"
    )
    assert names(parse(BAD % "a" + "---\n" + GOOD % "a")) == []


def test_one_bad_spec_rejects_the_whole_policy() -> None:
    specs = "specs:\n- endpointSelector: {}\n  egress: [{}]\n- endpointSelector: {}\n"
    parsed = parse(GOOD % "a" + specs)
    assert parsed.policies == ()
    assert [problem.path for problem in parsed.problems] == ["specs[1]"]
    good = parse(GOOD % "a" + specs + "  egress: [{}]\n")
    assert [rule.path for rule in good.policies[0].rules] == ["spec", "specs[0]", "specs[1]"]


def test_all_problems_of_a_file_in_one_go() -> None:
    text = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a}
spec:
  endpointSelector: {matchLabels: {app: 1}}
  ingress:
  - fromEntities: [wrld]
    toPorts:
    - ports:
      - {port: "99999"}
      - {port: 80, protocol: TPC}
      rules: {http: [{path: "("}]}
  egres: []
"""
    assert [(problem.line, problem.path) for problem in parse(text).problems] == [
        (5, "spec.endpointSelector.matchLabels.app"),
        (7, "spec.ingress[0].fromEntities[0]"),
        (10, "spec.ingress[0].toPorts[0].ports[0].port"),
        (10, "spec.ingress[0].toPorts[0].ports[0]"),
        (11, "spec.ingress[0].toPorts[0].ports[1].protocol"),
        (11, "spec.ingress[0].toPorts[0].ports[1].port"),
        (11, "spec.ingress[0].toPorts[0].ports[1]"),
        (12, "spec.ingress[0].toPorts[0].rules.http[0].path"),
        (13, "spec.egres"),
    ]


CILIUM = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
SPEC = "spec: {endpointSelector: {}, ingress: [{}]}\n"

HEADS: list[tuple[str, str, str]] = [
    ("a\n", "", "a mapping expected, not the text 'a'"),
    ("- a\n", "", "a mapping expected, not a list"),
    ("apiVersion: cilium.io/v2\n", "", "the document has no kind"),
    ("kind: Pod\n", "kind", "'Pod' is not a kind of policy"),
    ("kind: ciliumnetworkpolicy\n", "kind", "'ciliumnetworkpolicy' is not a kind of policy"),
    ("kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\n", "", "the policy has no name"),
    ("kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\nmetadata: {}\n", "metadata", "the policy has no name"),
    (
        "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\nmetadata: {name: A_b}\n",
        "metadata.name",
        "'A_b' is not a name",
    ),
    (
        "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\nmetadata: {name: a, namespace: a.b}\n",
        "metadata.namespace",
        "'a.b' is not a namespace",
    ),
    (
        "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\nmetadata: {name: 5}\n",
        "metadata.name",
        "text expected, not the number 5",
    ),
]


@pytest.mark.parametrize(("text", "path", "message"), HEADS, ids=[row[2] for row in HEADS])
def test_a_document_that_cannot_be_told_apart_is_unreadable(text: str, path: str, message: str) -> None:
    parsed = parse(text)
    assert [(problem.path, problem.message) for problem in parsed.problems] == [(path, message)]
    assert parsed.unreadable


BODIES: list[tuple[str, str, str]] = [
    (
        CILIUM.replace("v2", "v1") + "metadata: {name: a}\n" + SPEC,
        "apiVersion",
        "apiVersion 'cilium.io/v1' is not that of a CiliumNetworkPolicy",
    ),
    (
        "kind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec: {endpointSelector: {}, ingress: [{}]}\n",
        "",
        "the document has no apiVersion",
    ),
    (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n",
        "",
        "the policy has neither spec nor specs",
    ),
    (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\nspecs: []\n",
        "",
        "the policy has neither spec nor specs",
    ),
    (
        CILIUM + "metadata: {name: a, nmespace: b}\n" + SPEC,
        "metadata.nmespace",
        "unknown field 'nmespace'",
    ),
    (
        CILIUM.replace("Network", "ClusterwideNetwork") + "metadata: {name: a, namespace: b}\n" + SPEC,
        "metadata.namespace",
        "a clusterwide policy has no namespace",
    ),
    (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspecs: [{}]\n",
        "specs",
        "a NetworkPolicy has no specs",
    ),
]


@pytest.mark.parametrize(("text", "path", "message"), BODIES, ids=[row[2] for row in BODIES])
def test_a_known_policy_with_a_bad_head_is_broken(text: str, path: str, message: str) -> None:
    parsed = parse(text)
    assert (path, message) in [(problem.path, problem.message) for problem in parsed.problems]
    assert [key.name for key in parsed.broken] == ["a"]
    assert not parsed.unreadable


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            CILIUM + "description: d\nmetadata: {name: a}\n" + SPEC,
            "description: unknown field 'description'; write it under spec",
        ),
        (
            CILIUM + "metadata: {name: a, description: d}\n" + SPEC,
            "metadata.description: unknown field 'description'; write it in the spec, or among the annotations",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumClusterwideEnvoyConfig\nmetadata: {name: a}\n",
            "kind: 'CiliumClusterwideEnvoyConfig' is not a kind of policy; "
            "remove it: there are no listeners but the node's own",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: a}\n",
            "kind: 'CiliumCIDRGroup' is not a kind of policy; remove it, and write the CIDRs in the policies",
        ),
    ],
)
def test_what_belongs_elsewhere_is_told_where(text: str, problem: str) -> None:
    (found,) = parse(text).problems
    assert str(found).partition(": ")[2] == problem


def test_what_the_api_server_adds_is_accepted() -> None:
    text = (GOOD % "a").replace(
        "namespace: shop}",
        "namespace: shop, uid: x, generation: 1, managedFields: [{a: {b: c}}], annotations: {x/y: '1'}}",
    )
    assert parse(text + "status: {conditions: []}\n").problems == ()


def test_the_whole_file_unreadable() -> None:
    parsed = parse_policies(b"\xff", "f.yaml")
    assert parsed.unreadable
    assert str(parsed.problems[0]) == "f.yaml:1: byte 0 is not UTF-8; save the file as UTF-8"
    assert parse_policies(b"", "f.yaml") == ParsedPolicies((), ())
