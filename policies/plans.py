"""Every policy of a world resolved, and which rules select whom: what a change of few policies leaves as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .model import Policy, PolicyKey
from .resolve import PolicyPlan, RulePlan, Surroundings


@dataclass(frozen=True, eq=False, slots=True)
class Plans:
    """Immutable. `selecting` has the rules that select each identity, in the order of their policies' keys."""

    by_key: dict[PolicyKey, PolicyPlan]
    selecting: Mapping[int, Sequence[RulePlan]]

    @classmethod
    def of(cls, policies: Iterable[Policy], around: Surroundings, previous: Plans | None) -> Plans:
        """Of policies that are sorted by key. A previous plan stays wherever it would come out equal."""
        plans: dict[PolicyKey, PolicyPlan] = {}
        for policy in policies:
            plan = PolicyPlan(policy, around)
            old = previous.by_key.get(policy.key) if previous is not None else None
            plans[policy.key] = old if old is not None and old.same_as(plan) else plan
        return cls(plans, _selecting(plans.values()))

    def changed(self, new: Iterable[Policy], gone: Iterable[Policy], around: Surroundings) -> Plans:
        """These plans without the policies that are `gone` and with the `new` ones, which have the same surroundings. A
        policy that is only another object stays, and so does what is said of each identity that no change is about."""
        plans = self.by_key.copy()
        left: list[RulePlan] = []
        added: list[PolicyPlan] = []
        kept = {policy.key for policy in new if policy.key in plans and plans[policy.key].policy == policy}
        for policy in gone:
            if policy.key not in kept:
                left += plans.pop(policy.key).rules
        for policy in new:
            if policy.key not in kept:
                plans[policy.key] = plan = PolicyPlan(policy, around)
                added.append(plan)
        selecting = dict(self.selecting)
        more = _selecting(added)
        out = {rule.policy.key for rule in left}
        for number in more.keys() | {number for rule in left for number in rule.subjects}:
            rules = [rule for rule in selecting.get(number, ()) if rule.policy.key not in out]
            # A stable sort: the rules of one policy stay in their order.
            selecting[number] = sorted((*rules, *more.get(number, ())), key=lambda rule: rule.policy.key)
        return Plans(plans, selecting)


def _selecting(plans: Iterable[PolicyPlan]) -> dict[int, list[RulePlan]]:
    found: defaultdict[int, list[RulePlan]] = defaultdict(list)
    for plan in plans:
        for rule in plan.rules:
            for number in rule.subjects:
                found[number].append(rule)
    return dict(found)
