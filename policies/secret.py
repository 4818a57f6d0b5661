"""Kubernetes Secrets: what header matches may be compared with, and what must never be shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from .language.problem import Problem, Severity
from .model import HttpConditions, Policy, PolicyKey, SecretRef

# How a configuration marks what holds a secret's value, so that whoever shows the configuration can strike it out.
MARK = "secret"
LONGEST_VALUE = 16_000  # bytes; Envoy takes 16384 in a header's value

# https://www.rfc-editor.org/rfc/rfc9110#name-field-values
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class Secret:
    """One `kind: Secret`, its data decoded. Its values are in no text that Python makes of it."""

    ref: SecretRef
    data: Mapping[str, bytes] = field(repr=False)
    source: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class HeaderValues:
    """The secrets that give a header's value, and why the others do not."""

    values: Mapping[SecretRef, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    unusable: Mapping[SecretRef, str] = field(default_factory=lambda: MappingProxyType({}))


def header_values(secrets: Iterable[Secret]) -> HeaderValues:
    """A secret for a header has exactly one entry, whatever its key, as in the reference
    (https://docs.cilium.io/en/stable/security/policy/language/, HeaderMatch). One that could never equal a header's
    value, or is empty (the reference then takes any value for right), gives none."""
    values: dict[SecretRef, str] = {}
    unusable: dict[SecretRef, str] = {}
    for secret in secrets:
        if len(secret.data) != 1:
            unusable[secret.ref] = f"has {len(secret.data)} entries, and a header match needs exactly one"
            continue
        (value,) = secret.data.values()
        try:
            text = value.decode()
        except UnicodeDecodeError:
            unusable[secret.ref] = "is not UTF-8 text"
            continue
        if (why := value_fault(text)) or not text:
            unusable[secret.ref] = why or "is empty"
        elif text != text.strip():
            unusable[secret.ref] = "has a blank at one end, which no header's value has"
        else:
            values[secret.ref] = text
    return HeaderValues(MappingProxyType(values), MappingProxyType(unusable))


def value_fault(text: str) -> str:
    """Why no header can have this value; empty when one can."""
    if not _VALUE.fullmatch(text):
        return "has a line break or another control character, which no header's value has"
    if len(text.encode()) + text.count("%") > LONGEST_VALUE:
        counted = " ('%' counts twice)" if "%" in text else ""  # Envoy is told %%
        return f"is longer than {LONGEST_VALUE} bytes{counted}"
    return ""


def names_secrets(policy: Policy) -> bool:
    """True when a header match of the policy refers to a secret."""
    return next(_uses(policy), None) is not None


class _Use(NamedTuple):
    ref: SecretRef
    has_value: bool
    path: str
    line: int


def secret_problems(policies: Iterable[Policy], known: HeaderValues) -> dict[PolicyKey, tuple[Problem, ...]]:
    """A warning for each place where a policy names a secret that gives no value; policies without one are left out."""
    found: dict[PolicyKey, tuple[Problem, ...]] = {}
    for policy in policies:
        problems = dict.fromkeys(
            _problem(policy, use, known.unusable.get(use.ref, "is missing"))
            for use in _uses(policy)
            if use.ref not in known.values
        )
        if problems:
            found[policy.key] = tuple(problems)
    return found


def _uses(policy: Policy) -> Iterator[_Use]:
    for rule in policy.rules:
        for entry in (*rule.ingress, *rule.egress):
            for ports in entry.ports or ():
                if isinstance(ports.l7, HttpConditions):
                    for condition in ports.l7.http:
                        for header in condition.headers:
                            if header.secret is not None:
                                yield _Use(header.secret, header.value is not None, ports.path, ports.line)


def _problem(policy: Policy, use: _Use, why: str) -> Problem:
    effect = "the value beside it counts instead" if use.has_value else "the rule that needs it matches no request"
    hint = "put a Secret of that name, with one entry, into the policies folder"
    return Problem(policy.source, use.line, use.path, f"secret {use.ref} {why}: {effect}", hint, Severity.WARNING)
