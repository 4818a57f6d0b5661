"""Whose fault Envoy's refusal is: from its words, and the resource they are about, to parts and fields of policies.

Envoy knows nothing of policies and often quotes only a value, or nothing. What its words do not tell is found by trying
(see culprits.py); here is what can be told by reading.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ...policies import Direction, Policy, PolicyKey, World
from ...policies.endpoint_policy import MismatchAction
from ...policies.withheld import Part, condition, parts, place, port_rule
from ...policies.workload import Endpoint
from ...xds import SHARDS, shard_name, shard_of, spoken_regexes

_SHARDS = {shard_name(direction, shard): shard for direction in Direction for shard in range(SHARDS)}
ALL = ("",)  # resources: any
_SHORTEST = 4  # characters; a shorter value stands in most sentences by chance


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a policy the fault is. `line` is that of the entry around `path`, in the policy's file."""

    path: str
    line: int

    def __str__(self) -> str:
        return self.path


def place_of(policy: Policy, part: Part | None, field: str = "") -> Place:
    """The place of a field of a part; of the whole policy without a part."""
    if part is None:
        return Place("spec", policy.line)
    path = place(policy, part)
    return Place(f"{path}.{field}" if field else path, port_rule(policy, part).line)


def parts_in(policy: Policy, resource: str) -> list[Part]:
    """The parts of a policy that go into a resource; all of them when its name tells nothing."""
    kinds = [
        kind for kind in ("http", "tls", "kafka", "grpc") if f".{kind}." in f"{resource}." and resource != "lockgate"
    ]
    direction = next((each for each in Direction if f".{each}" in resource), None)
    found = [
        part
        for part in parts(policy)
        if (direction is None or part.direction is direction)
        and (not kinds or part.kind in kinds or (part.kind == "grpc" and "http" in kinds))
        and (not resource.endswith(".headers") or _acting(policy, part))
    ]
    return found or list(parts(policy))


def quoted(policy: Policy, text: str) -> list[tuple[Part, str]]:
    """The parts, and their fields, of which Envoy's words quote something; the field is empty for the whole part."""
    found: list[tuple[Part, str]] = []
    for part in parts(policy):
        if f"{policy.key}:{port_rule(policy, part).path}" in text:
            found.append((part, ""))
        else:
            found += ((part, field) for field, value in _values(policy, part) if _quotes(text, value))
    return list(dict.fromkeys(found))


def field_in(policy: Policy, part: Part, resource: str, text: str) -> str:
    """The field of a part that is to blame, when it can be told."""
    fields = [field for found, field in quoted(policy, text) if found == part and field]
    if len(fields) == 1:
        return fields[0]
    rule = condition(policy, part)
    if rule is not None and (resource.endswith(".headers") or "HeaderMutation" in text):
        return "headerMatches"
    return ""


def _values(policy: Policy, part: Part) -> Iterator[tuple[str, str]]:
    rule = condition(policy, part)
    if rule is not None:
        for field, regex in (("path", rule.path), ("method", rule.method), ("host", rule.host)):
            if regex is not None:
                yield from ((field, value) for value in (regex, *spoken_regexes(regex)))
        for header in rule.headers:
            field = "headers" if header.mismatch is MismatchAction.DENY else "headerMatches"
            yield field, header.name
            if header.value is not None:
                yield field, header.value
    tls = port_rule(policy, part).tls
    if part.kind == "tls" and tls is not None:
        yield from (("", name) for name in tls.server_names)


def _quotes(text: str, value: str) -> bool:
    return (len(value) >= _SHORTEST and value in text) or f"'{value}'" in text


def _acting(policy: Policy, part: Part) -> bool:
    rule = condition(policy, part)
    return rule is not None and any(header.mismatch is not MismatchAction.DENY for header in rule.headers)


def likely(policies: Iterable[Policy], text: str) -> list[Policy]:
    """The policies that the words quote something of; nobody, when they quote everybody."""
    listed = list(policies)
    found = [policy for policy in listed if quoted(policy, text)]
    return found if len(found) < len(listed) else []


def told_in(world: World, endpoints: Iterable[Endpoint], resources: Collection[str]) -> frozenset[PolicyKey]:
    """The policies of these endpoints that go into these resources. Into one that is no shard any of them may."""
    shards = {_SHARDS.get(resource) for resource in resources}
    return frozenset(
        policy.key
        for endpoint in endpoints
        if None in shards or shard_of(endpoint.identity) in shards
        for policy in world.policies_of(endpoint)
    )
