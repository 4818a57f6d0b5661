"""Policy files: from bytes to policies, with every problem of the file in one go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import UnreadableError
from ..model import Policy, PolicyKey, PolicyKind, SecretRef
from ..secret import Secret
from .document import read_documents
from .fields import Field, Findings, shorten, suggest
from .grpc_services import GrpcServices
from .metadata import read_metadata, read_namespace
from .parse_network_policy import parse_network_policy
from .parse_rule import RULE_FIELDS, parse_rule
from .parse_secret import is_secret, looks_like_secret, parse_secret
from .problem import Problem
from .unsupported import UNSUPPORTED, Feature

API_VERSIONS: Mapping[PolicyKind, str] = {
    PolicyKind.CILIUM: "cilium.io/v2",
    PolicyKind.CLUSTERWIDE: "cilium.io/v2",
    PolicyKind.KUBERNETES: "networking.k8s.io/v1",
}

# Of what is written beside the spec, and of what lies beside policies.
_IN_THE_SPEC = dict.fromkeys(RULE_FIELDS, "write it under spec")
_BESIDE_POLICIES: Mapping[str, str] = {
    "CiliumEnvoyConfig": "remove it: there are no listeners but the node's own",
    "CiliumClusterwideEnvoyConfig": "remove it: there are no listeners but the node's own",
    "CiliumCIDRGroup": "remove it, and write the CIDRs in the policies",
}

# Of nearly every file, and each empty set that is made is an object of its own.
_NO_POLICY: frozenset[PolicyKey] = frozenset()
_NO_SECRET: frozenset[SecretRef] = frozenset()


@dataclass(frozen=True, slots=True)
class ParsedPolicies:
    """What one file holds: policies, and secrets that header matches may name.

    `broken` are the policies that are there but have an error; whoever enforces keeps the last good version of exactly
    those. `unreadable` is true when a part of the file could not be read far enough to know which policy it is; then
    every policy that the file held before and that is in neither list is to be kept as well. `broken_secrets` are the
    same for secrets.
    """

    policies: tuple[Policy, ...]
    problems: tuple[Problem, ...]
    broken: frozenset[PolicyKey] = frozenset()
    unreadable: bool = False
    secrets: tuple[Secret, ...] = ()
    broken_secrets: frozenset[SecretRef] = frozenset()

    @property
    def ok(self) -> bool:
        """True when there is no error (there may be warnings)."""
        return not any(problem.is_error for problem in self.problems)


def parse_policies(
    data: bytes, source: str, refuse: Mapping[Feature, str] = UNSUPPORTED, grpc: GrpcServices | None = None
) -> ParsedPolicies:
    """The policies in a YAML file of one or more documents (a `kind: List` is looked into).

    `source` is the file's name for problems and origins. `refuse` says which features are refused, each with its
    sentence; pass {} for the whole language. With `grpc` a rule about any other service or method is an error. Nothing
    is raised: all that is wrong is in `problems`.
    """
    findings = Findings(source, refuse, grpc)
    policies: dict[PolicyKey, Policy] = {}
    broken: set[PolicyKey] = set()
    secrets: dict[SecretRef, Secret | None] = {}
    unreadable = False
    for root in read_documents(data):
        if isinstance(root, UnreadableError):
            hidden = looks_like_secret(data)
            findings.add(root.line, "", "not readable as YAML (not quoted: a Secret)" if hidden else root.message)
            unreadable = True
            continue
        for item in _objects(Field(root, findings)):
            before = findings.errors
            if is_secret(item):
                unreadable |= not _take_secret(item, secrets)
                continue
            parsed = _policy(item)
            if parsed is None:
                unreadable = True
                continue
            key, policy = parsed
            if findings.errors > before or policy is None:
                broken.add(key)
            elif key in policies or key in broken:
                where = f" (first in line {policies[key].line})" if key in policies else ""
                item.error(f"{key.kind} {key} is written twice in this file{where}", "remove one of the two")
            else:
                policies[key] = policy
    for key in broken:
        policies.pop(key, None)
    return ParsedPolicies(
        tuple(policies.values()),
        findings.sorted(),
        frozenset(broken) if broken else _NO_POLICY,
        unreadable,
        tuple(secret for secret in secrets.values() if secret is not None),
        frozenset(ref for ref, secret in secrets.items() if secret is None) if secrets else _NO_SECRET,
    )


def _take_secret(field: Field, secrets: dict[SecretRef, Secret | None]) -> bool:
    """Add the secret, or None in its place when it has an error; False when it cannot be told which one it is."""
    parsed = parse_secret(field)
    if parsed is None:
        return False
    ref, secret = parsed
    if ref in secrets:
        field.error(f"Secret {ref} is written twice in this file", "remove one of the two")
        secret = None
    secrets[ref] = secret
    return True


def _objects(field: Field) -> Iterator[Field]:
    """The document itself, or the items of a `kind: List` (which kubectl prints)."""
    if field.peek().get("kind") == "List":
        fields = field.mapping(("apiVersion", "kind", "metadata", "items"))
        yield from fields["items"].items() if fields and "items" in fields else ()
    else:
        yield field


def _policy(field: Field) -> tuple[PolicyKey, Policy | None] | None:
    """The policy with its key; None when it cannot even be told which policy it is."""
    field.findings.instructions = 0
    fields = field.mapping(("apiVersion", "kind", "metadata", "spec", "specs", "status"), _IN_THE_SPEC)
    if fields is None:
        return None
    kind = _kind(field, fields)
    key = _key(field, fields, kind) if kind is not None else None
    if key is None:
        return None
    if key.kind is PolicyKind.KUBERNETES:
        if "specs" in fields:
            fields["specs"].error("a NetworkPolicy has no specs", "write spec")
        parsed = [parse_network_policy(fields["spec"], key)] if "spec" in fields else []
    else:
        parsed = [parse_rule(fields["spec"], key)] if "spec" in fields else []
        parsed += [parse_rule(item, key) for item in (fields["specs"].items() if "specs" in fields else ())]
    if not parsed:
        field.error("the policy has neither spec nor specs", "write spec: with endpointSelector and ingress or egress")
    rules = tuple(rule for rule in parsed if rule is not None)
    return key, Policy(key, rules, field.findings.source, field.line) if rules else None


def _kind(field: Field, fields: dict[str, Field]) -> PolicyKind | None:
    text = fields["kind"].text() if "kind" in fields else ""
    if not text:
        if text is not None:
            field.error("the document has no kind", f"write kind: {PolicyKind.CILIUM}")
        return None
    try:
        kind = PolicyKind(text)
    except ValueError:
        hint = _BESIDE_POLICIES.get(text) or suggest(text, tuple(PolicyKind), always=True)
        fields["kind"].error(f"'{shorten(text)}' is not a kind of policy", hint)
        return None
    version = fields["apiVersion"].text() if "apiVersion" in fields else ""
    if version is not None and version != API_VERSIONS[kind]:
        place = fields.get("apiVersion", field)
        said = (
            f"apiVersion '{shorten(version)}' is not that of a {kind}" if version else "the document has no apiVersion"
        )
        place.error(said, f"write apiVersion: {API_VERSIONS[kind]}")
    return kind


def _key(field: Field, fields: dict[str, Field], kind: PolicyKind) -> PolicyKey | None:
    found = read_metadata(field, fields, "policy")
    if found is None:
        return None
    metadata, name = found
    if kind is PolicyKind.CLUSTERWIDE:
        if "namespace" in metadata:
            metadata["namespace"].error(
                "a clusterwide policy has no namespace", f"remove it, or use {PolicyKind.CILIUM}"
            )
        return PolicyKey(kind, "", name)
    namespace = read_namespace(metadata)
    return None if namespace is None else PolicyKey(kind, namespace, name)
