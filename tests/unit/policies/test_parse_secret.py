"""Reading Secrets beside policies: what they hold, what is wrong with them, and that no problem quotes a value."""

from __future__ import annotations

import pytest
from lockgate.policies.language.parse import ParsedPolicies, parse_policies
from lockgate.policies.model import SecretRef

HEAD = "apiVersion: v1\nkind: Secret\nmetadata: {name: token}\n"
HUSH = "hunter2"
TOKEN = SecretRef("default", "token")


def parse(text: str) -> ParsedPolicies:
    return parse_policies(text.encode(), "s.yaml")


def entries(text: str) -> dict[str, bytes]:
    parsed = parse(text)
    assert parsed.problems == () and not parsed.unreadable
    (secret,) = parsed.secrets
    assert (secret.ref, secret.source) == (TOKEN, "s.yaml")
    return dict(secret.data)


def test_data_is_base64_and_string_data_is_not() -> None:
    assert entries(HEAD + "data: {a: aHVudGVyMg==}") == {"a": b"hunter2"}
    assert entries(HEAD + "data:\n  a: |\n    aHVu\n    dGVyMg==\n") == {"a": b"hunter2"}
    assert entries(HEAD + "stringData: {a: aHVudGVyMg==}") == {"a": b"aHVudGVyMg=="}
    assert entries(HEAD + "data: {a: eA==, b: eQ==}\nstringData: {b: z}") == {"a": b"x", "b": b"z"}
    assert entries(HEAD + "type: Opaque\nimmutable: true") == {}


def test_a_secret_is_no_policy_and_no_error() -> None:
    policy = (
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n"
        "spec: {endpointSelector: {}, ingress: [{}]}\n"
    )
    secret = HEAD.replace("{name: token}", "{name: token, namespace: other}") + "data: {a: eA==}\n"
    parsed = parse(secret + policy)
    assert parsed.ok and [policy.key.name for policy in parsed.policies] == ["p"]
    assert [secret.ref for secret in parsed.secrets] == [SecretRef("other", "token")]
    listed = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: token}\n"
    assert [secret.ref for secret in parse(listed).secrets] == [TOKEN]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (HEAD + f"data: {{a: {HUSH}}}", "data.a", "the value is not base64"),
        (HEAD + f"data: {{a: [{HUSH}]}}", "data.a", "text expected"),
        (HEAD + "stringData: {a: 4711}", "stringData.a", "text expected"),
        (HEAD + f"stringData: {HUSH}", "stringData", "a mapping of keys to texts expected"),
        (HEAD + f"stringData: {{'a b': {HUSH}}}", "stringData[a b]", "a key may hold letters, digits, '-', '_'"),
        (HEAD + f"stringdata: {{a: {HUSH}}}", "stringdata", "unknown field 'stringdata'"),
        (HEAD + f"stringData: {{a: {HUSH}, a: {HUSH}}}", "stringData.a", "written twice, first in line 4"),
        (HEAD + "immutable: perhaps", "immutable", "true or false expected"),
        (HEAD.replace("v1", "v2"), "apiVersion", "a Secret has apiVersion v1"),
        (HEAD + "---\n" + HEAD, "", "Secret default/token is written twice in this file"),
    ],
)
def test_a_broken_secret_is_named_and_not_quoted(text: str, path: str, message: str) -> None:
    parsed = parse(text)
    (problem,) = parsed.problems
    assert (problem.path, problem.is_error) == (path, True)
    assert problem.message.startswith(message)
    assert parsed.secrets == () and parsed.broken_secrets == {TOKEN} and not parsed.unreadable
    assert HUSH not in str(parsed) and "4711" not in str(parsed)


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: Secret\nmetadata: {namespace: default}\n",
        HEAD.replace("token", "To ken"),
        HEAD.replace("{name: token}", "{name: token, namespace: x.y}"),
        HEAD + f"stringData: {{a: *{HUSH}}}",
        HEAD + f"stringData: {{a: !{HUSH} x}}",
        HEAD + f"stringData: {{a: {HUSH}, 'b}}",
    ],
)
def test_what_cannot_be_told_apart_is_unreadable_and_not_quoted(text: str) -> None:
    parsed = parse(text)
    assert parsed.unreadable and not parsed.ok and parsed.secrets == ()
    assert HUSH not in str(parsed)


def test_no_text_holds_a_value() -> None:
    parsed = parse(HEAD + f"stringData: {{a: {HUSH}}}")
    assert parsed.secrets[0].data["a"] == HUSH.encode()
    assert HUSH not in f"{parsed} {parsed!r} {parsed.secrets[0]!r}"
