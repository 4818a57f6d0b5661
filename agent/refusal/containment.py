"""What Envoy refused and what stands in its place, so that one bad policy stops no other. Pure.

A policy that Envoy refused is not offered again as long as it says the same: its last version that Envoy took stays in
force, and where there is none, what it covers is denied (see policies/withheld.py). When it changes it is offered, when
it goes it is forgotten; either way nothing else has to be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from ...policies import Policy, PolicyKey
from ...policies.withheld import needs_envoy, withheld
from .blame import Place
from .whose import envoy_of


@dataclass(frozen=True, slots=True)
class StandIn:
    """What is enforced instead of a policy: an older version of it, or itself with nothing that Envoy judges."""

    policy: Policy
    older: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """One policy that Envoy refused: the resource it spoiled, Envoy's text, and where in the policy the fault is."""

    policy: Policy
    resource: str
    text: str
    place: Place
    stand_in: StandIn
    node: str = ""  # whose Envoy it was; empty for the agent's own
    # Where Envoy's words name no place the fault may lie in how policies go together: a change of any of these gives
    # the policy another try.
    beside: Mapping[PolicyKey, Policy] = field(default_factory=dict)

    @property
    def remembered(self) -> Policy | None:
        """Its last good version."""
        return self.stand_in.policy if self.stand_in.older else None

    @property
    def consequence(self) -> str:
        """What is enforced now, as the end of a sentence."""
        return "its last good version stays enforced" if self.stand_in.older else "what only it allows is denied"

    def to_json(self) -> dict[str, Any]:
        """For the local API. `enforced`: "older" or "denied"."""
        return {
            "resource": self.resource,
            "text": self.text,
            "path": self.place.path,
            "line": self.place.line,
            "enforced": "older" if self.stand_in.older else "denied",
        }

    def __str__(self) -> str:
        policy = self.policy
        there = " there" if self.node else ""
        return (
            f"{policy.source}:{self.place.line}: {self.place}: {envoy_of(self.node)} refuses policy {policy.key} "
            f"({self.resource}: {self.text}); {self.consequence}{there}"
        )


class Containment:
    """The refusals of one node's Envoy, and the versions of policies that it took."""

    def __init__(self) -> None:
        self._refusals: dict[PolicyKey, Refusal] = {}
        self._took: tuple[Policy, ...] = ()
        self._told: Callable[[], Set[PolicyKey]] = frozenset
        self._mere: frozenset[PolicyKey] = frozenset()  # those of them that were only there to deny
        self._by_key: Mapping[PolicyKey, Policy] | None = None  # made when it is needed, which is when Envoy refuses

    @property
    def refusals(self) -> Mapping[PolicyKey, Refusal]:
        """By policy; those in force now."""
        return self._refusals

    def admitted(self, wanted: Iterable[Policy]) -> tuple[Policy, ...]:
        """The policies to enforce when these are wanted, no two of one key. Forgets the refusals that no longer
        apply."""
        if not self._refusals:
            return tuple(wanted)
        listed = {policy.key: policy for policy in wanted}
        self._refusals = {key: refusal for key, refusal in self._refusals.items() if _applies(refusal, listed)}
        return tuple(
            self._refusals[key].stand_in.policy if key in self._refusals else policy for key, policy in listed.items()
        )

    def take(self, policies: Iterable[Policy], told: Callable[[], Set[PolicyKey]]) -> None:
        """These are in force, and Envoy took those of them that it was told."""
        self._took, self._told = tuple(policies), told
        self._mere = frozenset(key for key, refusal in self._refusals.items() if not refusal.stand_in.older)
        self._by_key = None

    @property
    def _taken(self) -> Mapping[PolicyKey, Policy]:
        if self._by_key is None:
            told = self._told() - self._mere
            self._by_key = {policy.key: policy for policy in self._took if policy.key in told}
        return self._by_key

    def refuse(self, refusal: Refusal) -> None:
        """Keep the policy from Envoy from now on."""
        self._refusals[refusal.policy.key] = refusal

    def forgive(self) -> None:
        """Keep none from Envoy any more."""
        self._refusals = {}

    def taken(self, policy: Policy) -> Policy | None:
        """The version of the policy that Envoy took last."""
        return self._taken.get(policy.key)

    def suspects(self, policies: Iterable[Policy]) -> list[Policy]:
        """Those of the policies that Envoy is asked to judge by and has not taken yet."""
        return [
            policy
            for policy in policies
            if policy.key not in self._refusals and self._taken.get(policy.key) != policy and needs_envoy(policy)
        ]

    def stand_in(self, policy: Policy, remembered: Policy | None) -> StandIn:
        """What to enforce instead of a policy; `remembered` is the version that an earlier agent's Envoy took last."""
        older = self._taken.get(policy.key) or remembered
        if older is not None and older != policy:
            return StandIn(older, older=True)
        return StandIn(withheld(policy), older=False)


def _applies(refusal: Refusal, wanted: Mapping[PolicyKey, Policy]) -> bool:
    if wanted.get(refusal.policy.key) != refusal.policy:
        return False
    return all((now := wanted.get(key)) is before or now == before for key, before in refusal.beside.items())
