"""From documents to the policies that are enforced: the last good version of each stays until a better one comes.

A pure function of the content before and the content now; a `Memory` supplies what an earlier agent had accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, TypeAlias

from ...policies import ParsedPolicies, ParsedWorkloads, Policy, PolicyKey, Problem, parse_policies, parse_workloads
from ...policies.difference import other_values
from ...policies.model import SecretRef
from ...policies.node import Node
from ...policies.secret import HeaderValues, Secret, header_values, names_secrets, secret_problems
from ...policies.service import Service
from ...policies.tls_secret import TlsSecrets, names_tls_secrets, tls_problems
from ...policies.workload import Workload
from ...store import Document, StoreContent

Parse: TypeAlias = Callable[[Document], ParsedPolicies]  # of a document that could be read


class Memory(Protocol):
    """What an agent before this one accepted last from a source. `LastGood` is the one on disk."""

    def policies(self, source: str) -> tuple[Policy, ...]: ...
    def secrets(self, source: str) -> tuple[Secret, ...]: ...
    def workloads(self, source: str) -> tuple[Workload, ...]: ...
    def services(self, source: str) -> tuple[Service, ...]: ...
    def nodes(self, source: str) -> tuple[Node, ...]: ...


class NoMemory:
    """Of a first start, and of the commands that read files without an agent."""

    def policies(self, source: str) -> tuple[Policy, ...]:
        """Nothing."""
        return ()

    def secrets(self, source: str) -> tuple[Secret, ...]:
        """Nothing."""
        return ()

    def workloads(self, source: str) -> tuple[Workload, ...]:
        """Nothing."""
        return ()

    def services(self, source: str) -> tuple[Service, ...]:
        """Nothing."""
        return ()

    def nodes(self, source: str) -> tuple[Node, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One document and what came of it. `kept` and `kept_secrets` are those of an older version that stay in force;
    `with_secrets` are the accepted policies that name a secret."""

    document: Document
    parsed: ParsedPolicies
    kept: tuple[Policy, ...] = ()
    kept_secrets: tuple[Secret, ...] = ()
    with_secrets: tuple[Policy, ...] = field(init=False)
    plain: bool = field(init=False)  # it holds policies, and there is nothing else to say of it

    def __post_init__(self) -> None:
        object.__setattr__(self, "with_secrets", tuple(filter(_names_secrets, self.accepted)))
        more = (self.parsed.problems, self.kept, self.accepted_secrets, self.with_secrets)
        object.__setattr__(self, "plain", not any(more))

    @property
    def accepted(self) -> tuple[Policy, ...]:
        """What this file contributes to enforcement."""
        return self.parsed.policies + self.kept

    @property
    def accepted_secrets(self) -> tuple[Secret, ...]:
        """The secrets that policies may name."""
        return self.parsed.secrets + self.kept_secrets


@dataclass(frozen=True, slots=True)
class WorkloadFile:
    """The same for a document of workloads and services."""

    document: Document
    parsed: ParsedWorkloads
    kept: tuple[Workload, ...] = ()
    kept_services: tuple[Service, ...] = ()
    kept_nodes: tuple[Node, ...] = ()

    @property
    def accepted(self) -> tuple[Workload, ...]:
        """The workloads this file stands for."""
        return self.parsed.workloads + self.kept

    @property
    def accepted_services(self) -> tuple[Service, ...]:
        """The services that toServices may name."""
        return self.parsed.services + self.kept_services

    @property
    def accepted_nodes(self) -> tuple[Node, ...]:
        """The nodes of the cluster."""
        return self.parsed.nodes + self.kept_nodes


@dataclass(frozen=True, slots=True)
class Intake:
    """What the node is to enforce and everything that is wrong with what it was given."""

    policies: tuple[Policy, ...] = ()
    by_key: Mapping[PolicyKey, Policy] = field(default_factory=lambda: MappingProxyType({}))  # the same
    distinct: bool = True  # no two files hold the same policy
    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    secrets: tuple[Secret, ...] = ()
    header_values: HeaderValues = field(default_factory=HeaderValues)  # what header matches get from the secrets
    tls: TlsSecrets = field(default_factory=TlsSecrets)  # what TLS contexts get from them
    lacking: Mapping[PolicyKey, tuple[Problem, ...]] = field(default_factory=lambda: MappingProxyType({}))  # secrets
    stale: frozenset[PolicyKey] = frozenset()  # enforced in an older version than the file holds
    stale_secrets: frozenset[SecretRef] = frozenset()
    problems: tuple[Problem, ...] = ()
    files: Mapping[str, PolicyFile] = field(default_factory=lambda: MappingProxyType({}))
    workload_files: Mapping[str, WorkloadFile] = field(default_factory=lambda: MappingProxyType({}))

    def with_stand_ins(self, stand_ins: Mapping[PolicyKey, Policy | None]) -> Intake:
        """As if these policies had been broken when they were read, and their older versions (None: there is none) had
        stayed. What is to be remembered when Envoy refuses them."""
        if not stand_ins:
            return self
        return replace(self, files={source: _without(file, stand_ins) for source, file in self.files.items()})

    def part(self, keys: Set[PolicyKey]) -> Intake:
        """Nothing but these of the accepted policies, in their files."""
        sources = sorted({policy.source for key in keys if (policy := self.by_key.get(key)) is not None})
        return Intake(files={source: _part(self.files[source], keys) for source in sources})


def _parse(document: Document) -> ParsedPolicies:
    return parse_policies(document.data, document.source)


def admit(before: Intake, content: StoreContent, memory: Memory, parse: Parse = _parse) -> Intake:
    """Reads what changed since `before` and decides what is enforced now."""
    files: dict[str, PolicyFile] = {}
    known = before.files
    for document in content.policies:  # of which most are the same as before
        file = known.get(document.source)
        if file is None or file.document is not document:
            file = _policy_file(before, document, memory, parse)
        files[document.source] = file
    workload_files = {document.source: _workload_file(before, document, memory) for document in content.workloads}
    special = [file for file in files.values() if not file.plain]
    problems = [Problem(source="store", line=0, path="", message=sentence, hint="") for sentence in content.problems]
    problems += [problem for file in special for problem in file.parsed.problems]
    policies, twice = _policies(before, files)
    problems += twice

    secrets: dict[SecretRef, Secret] = {}
    for file in special:
        for secret in file.accepted_secrets:
            first_secret = secrets.setdefault(secret.ref, secret)
            if first_secret is not secret:
                where = (first_secret.source, first_secret.line)
                problems.append(_twice(secret.source, secret.line, f"Secret {secret.ref}", *where))
    values, tls = before.header_values, before.tls
    if tuple(secrets.values()) != before.secrets:
        values, tls = header_values(secrets.values()), TlsSecrets(secrets.values())
    with_secrets = [policy for file in special for policy in file.with_secrets]
    lacking = secret_problems(with_secrets, values)
    for key, more in tls_problems(with_secrets, tls).items():
        lacking[key] = (*lacking.get(key, ()), *more)

    workloads: dict[str, Workload] = {}
    services: dict[str, Service] = {}
    for workload_file in workload_files.values():
        problems.extend(workload_file.parsed.problems)
        for workload in workload_file.accepted:
            first_workload = workloads.setdefault(workload.key, workload)
            if first_workload is not workload:
                where = (first_workload.source, first_workload.line)
                problems.append(_twice(workload.source, workload.line, f"workload {workload.key}", *where))
        for service in workload_file.accepted_services:
            first_service = services.setdefault(service.key, service)
            if first_service is not service:
                where = (first_service.source, first_service.line)
                problems.append(_twice(service.source, service.line, f"service {service.key}", *where))
    nodes = tuple(node for workload_file in workload_files.values() for node in workload_file.accepted_nodes)

    return Intake(
        policies=tuple(policies.values()),
        by_key=policies,
        distinct=not twice,
        workloads=tuple(workloads.values()),
        services=tuple(services.values()),
        nodes=nodes,
        secrets=tuple(secrets.values()),
        header_values=values,
        tls=tls,
        lacking=MappingProxyType(lacking),
        stale=frozenset(policy.key for file in special for policy in file.kept),
        stale_secrets=frozenset(secret.ref for file in special for secret in file.kept_secrets),
        problems=tuple(problems),
        files=MappingProxyType(files),
        workload_files=MappingProxyType(workload_files),
    )


def _policies(before: Intake, files: Mapping[str, PolicyFile]) -> tuple[dict[PolicyKey, Policy], list[Problem]]:
    """What the files hold by key, and what one of them holds that another does too."""
    changed, gone = other_values(files, before.files), other_values(before.files, files)
    if before.distinct:
        policies = dict(before.by_key)
        for file in gone:
            for policy in file.accepted:
                del policies[policy.key]
        added = [policy for file in changed for policy in file.accepted]
        policies |= {policy.key: policy for policy in added}
        if len(policies) == len(before.by_key) - sum(len(file.accepted) for file in gone) + len(added):
            return policies, []
    policies, problems = {}, []
    for file in files.values():
        for policy in file.accepted:
            first = policies.setdefault(policy.key, policy)
            if first is not policy:
                problems.append(_twice(policy.source, policy.line, f"policy {policy.key}", first.source, first.line))
    return policies, problems


def _names_secrets(policy: Policy) -> bool:
    return names_secrets(policy) or names_tls_secrets(policy)


def _policy_file(before: Intake, document: Document, memory: Memory, parse: Parse) -> PolicyFile:
    known = before.files.get(document.source)
    if known is not None and (known.document is document or known.document == document):
        return known
    parsed = ParsedPolicies((), (_failure(document),), unreadable=True) if document.failure else parse(document)
    if not parsed.unreadable and not parsed.broken and not parsed.broken_secrets:
        return PolicyFile(document, parsed)
    last = known.accepted if known is not None else memory.policies(document.source)
    last_secrets = known.accepted_secrets if known is not None else memory.secrets(document.source)
    good = {policy.key for policy in parsed.policies}
    good_secrets = {secret.ref for secret in parsed.secrets}
    kept = tuple(
        policy for policy in last if policy.key not in good and (parsed.unreadable or policy.key in parsed.broken)
    )
    kept_secrets = tuple(
        secret
        for secret in last_secrets
        if secret.ref not in good_secrets and (parsed.unreadable or secret.ref in parsed.broken_secrets)
    )
    return PolicyFile(document, parsed, kept, kept_secrets)


def _without(file: PolicyFile, stand_ins: Mapping[PolicyKey, Policy | None]) -> PolicyFile:
    refused = [policy for policy in file.parsed.policies if policy.key in stand_ins]
    if not refused:
        return file
    left = tuple(policy for policy in file.parsed.policies if policy.key not in stand_ins)
    older = tuple(stand_in for policy in refused if (stand_in := stand_ins[policy.key]) is not None)
    return PolicyFile(file.document, replace(file.parsed, policies=left), file.kept + older, file.kept_secrets)


def _part(file: PolicyFile, keys: Set[PolicyKey]) -> PolicyFile:
    if all(policy.key in keys for policy in file.accepted):
        return file
    fresh, kept = (
        tuple(policy for policy in listed if policy.key in keys) for listed in (file.parsed.policies, file.kept)
    )
    return PolicyFile(file.document, replace(file.parsed, policies=fresh), kept, file.kept_secrets)


def _workload_file(before: Intake, document: Document, memory: Memory) -> WorkloadFile:
    known = before.workload_files.get(document.source)
    if known is not None and known.document == document:
        return known
    if document.failure:
        parsed = ParsedWorkloads((), (_failure(document),), unreadable=True)
    else:
        parsed = parse_workloads(document.data, document.source)
    if not (parsed.unreadable or parsed.broken or parsed.broken_services or parsed.broken_nodes):
        return WorkloadFile(document, parsed)
    last = known.accepted if known is not None else memory.workloads(document.source)
    last_services = known.accepted_services if known is not None else memory.services(document.source)
    last_nodes = known.accepted_nodes if known is not None else memory.nodes(document.source)
    good = {workload.key for workload in parsed.workloads}
    good_services = {service.key for service in parsed.services}
    good_nodes = {node.name for node in parsed.nodes}
    return WorkloadFile(
        document,
        parsed,
        tuple(
            workload
            for workload in last
            if workload.key not in good and (parsed.unreadable or workload.key in parsed.broken)
        ),
        tuple(
            service
            for service in last_services
            if service.key not in good_services and (parsed.unreadable or service.key in parsed.broken_services)
        ),
        tuple(
            node
            for node in last_nodes
            if node.name not in good_nodes and (parsed.unreadable or node.name in parsed.broken_nodes)
        ),
    )


def _failure(document: Document) -> Problem:
    return Problem(source=document.source, line=0, path="", message=document.failure, hint="")


def _twice(source: str, line: int, what: str, first_source: str, first_line: int) -> Problem:
    message = f"{what} is already defined at {first_source}:{first_line}; this one is ignored"
    return Problem(
        source=source, line=line, path="metadata.name", message=message, hint="give one of them another name"
    )
