"""Warnings that need the whole set of policies and workloads: rules without any effect, selectors without anybody.

What can be seen in one file alone is warned about by the readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..endpoint_policy import Direction, DirectionPolicy, PortSpan, ResolvedRule, RuleOrigin
from ..identity import WORKLOAD_IDENTITIES
from ..model import Policy, PolicyKey
from ..world import World
from .problem import Problem, Severity

MAX_COMPARISONS = 1_000_000  # of rules with each other, over a whole world; lint is advice and must stay quick


def lint(world: World) -> tuple[Problem, ...]:
    """Rules that another makes pointless, and selectors that match no workload of the world; sorted by place."""
    problems = [*_pointless_rules(world), *_empty_selectors(world)]
    return tuple(sorted(set(problems), key=lambda item: (item.source, item.line, item.path, item.message)))


def find_duplicates(policies: Iterable[Policy]) -> tuple[Problem, ...]:
    """An error for each policy that has the key of an earlier one, as happens when two files hold the same name."""
    first: dict[PolicyKey, Policy] = {}
    problems = []
    for policy in policies:
        other = first.setdefault(policy.key, policy)
        if other is not policy:
            message = f"{policy.key.kind} {policy.key} is already in {other.source}:{other.line}"
            problems.append(
                Problem(policy.source, policy.line, "metadata.name", message, "rename or remove one of them")
            )
    return tuple(problems)


def _pointless_rules(world: World) -> Iterable[Problem]:
    """Rules that are pointless for every endpoint they protect."""
    seen: defaultdict[RuleOrigin, int] = defaultdict(int)
    pointless: defaultdict[RuleOrigin, list[str]] = defaultdict(list)
    left = MAX_COMPARISONS
    for policy in {id(found): found for found in map(world.policy_of, world.endpoints)}.values():
        for direction in Direction:
            side = policy.direction(direction)
            for rule in side.rules:
                seen[rule.origin] += 1
            left -= len(side.rules)
            if left > 0:
                left = _compare(side, pointless, left)
    for origin, sentences in pointless.items():
        if len(sentences) == seen[origin]:
            yield Problem(origin.source, origin.line, origin.path, sentences[0], severity=Severity.WARNING)


def _compare(side: DirectionPolicy, pointless: defaultdict[RuleOrigin, list[str]], left: int) -> int:
    """Note the rules of one side that a deny rule hides or a plain rule opens; what is left of the budget."""
    denying = _distinct(rule for rule in side.rules if rule.deny)
    plain = _distinct(rule for rule in side.rules if not rule.deny and not rule.redirects)
    for rule in side.rules:
        if rule.deny or not rule.origin.source:
            continue
        left -= len(denying) + (len(plain) if rule.redirects else 0)
        if left < 0:
            break
        if (hiding := _first_holding(denying, rule)) is not None:
            pointless[rule.origin].append(f"never applies: {hiding.origin} denies all of it")
        elif rule.redirects and (opening := _first_holding(plain, rule)) is not None:
            text = (
                f"its request rules have no effect: {opening.origin} allows the same peers and ports with every request"
            )
            pointless[rule.origin].append(text)
    return left


def _distinct(rules: Iterable[ResolvedRule]) -> list[ResolvedRule]:
    return list({(rule.peers, rule.ports): rule for rule in rules}.values())


def _first_holding(rules: list[ResolvedRule], inner: ResolvedRule) -> ResolvedRule | None:
    """A rule that covers every peer and port of `inner`; None when there is none or `inner` covers nothing itself."""
    if inner.peers == frozenset() or inner.ports == ():
        return None
    for rule in rules:
        peers = rule.peers is None or (inner.peers is not None and inner.peers <= rule.peers)
        if peers and _holds_ports(rule.ports, inner.ports):
            return rule
    return None


def _holds_ports(outer: tuple[PortSpan, ...] | None, inner: tuple[PortSpan, ...] | None) -> bool:
    if outer is None:
        return True
    return inner is not None and all(
        any(one.protocol is span.protocol and one.first <= span.first and span.last <= one.last for one in outer)
        for span in inner
    )


def _empty_selectors(world: World) -> Iterable[Problem]:
    for policy in world.policies:
        for rule in policy.rules:
            if not rule.node and not any(number in WORKLOAD_IDENTITIES for number in world.select(rule.subject)):
                text = f"the policy selects no workload ({rule.subject})"
                yield Problem(policy.source, rule.line, rule.path, text, severity=Severity.WARNING)
            for entry in (*rule.ingress, *rule.egress):
                for selector in entry.peers.endpoints if entry.peers is not None else ():
                    if not world.select(selector):
                        text = f"a selector matches no workload ({selector})"
                        yield Problem(policy.source, entry.line, entry.path, text, severity=Severity.WARNING)
