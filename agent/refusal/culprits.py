"""Finding the policies that Envoy refuses a change for, by asking it: the search behind `containment`.

Every trial is what is in force with some of the changes, so nothing that was allowed before and after is denied on the
way. The kernel is not touched. What Envoy has answered is put together with what its words say (blame.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ...policies import Policy, PolicyKey
from ...policies.withheld import Part, needs_envoy, only
from .blame import Place, field_in, likely, parts_in, place_of, quoted
from .containment import Containment, Refusal, StandIn
from .hunt import Hunt

_MOST_TRIALS = 32  # to find the place in a policy that is to blame: meanwhile all other changes wait

# Offers policies to Envoy; what it refused, as text by resource (nothing: it took them all).
Offer: TypeAlias = Callable[[Sequence[Policy]], Awaitable[Mapping[str, str]]]


class InterruptedSearchError(Exception):
    """Envoy went away, or does not answer: nothing can be found out now. Raised by an `Offer`."""


@dataclass(frozen=True, slots=True)
class _Why:
    """One refusal as a text, so that a Hunt can hand it back."""

    resource: str
    text: str

    @classmethod
    def of(cls, nacks: Mapping[str, str]) -> _Why:
        """Of several resources the first; they have the same cause more often than not."""
        return cls(*min(nacks.items()))

    def __str__(self) -> str:
        return f"{self.resource}: {self.text}"

    @classmethod
    def read(cls, why: str) -> _Why:
        resource, _, text = why.partition(": ")
        return cls(resource, text)


class Search:
    """One search; `recall` knows the version of a policy that an earlier agent's Envoy took last. `node` is the remote
    node that the Envoy is of."""

    def __init__(
        self, containment: Containment, offer: Offer, recall: Callable[[Policy], Policy | None], node: str = ""
    ) -> None:
        self._containment = containment
        self._offer = offer
        self._recall = recall
        self._node = node

    async def run(
        self, policies: Sequence[Policy], nacks: Mapping[str, str], told: Collection[PolicyKey]
    ) -> list[Refusal]:
        """Envoy refused these policies with these words, in resources that it is `told` some of them in. The culprits;
        none when it is no policy's fault.

        Raises:
            InterruptedSearchError: see there.
        """
        why = _Why.of(nacks)
        stand_ins = {}
        for policy in self._containment.suspects(each for each in policies if each.key in told):
            remembered = self._recall(policy)
            if remembered != policy:
                stand_ins[policy.key] = self._containment.stand_in(policy, remembered)
        guilty = await self._hunt(policies, stand_ins, why)
        good = [stand_ins[each.key].policy if each.key in guilty else each for each in policies]
        refused = guilty.keys() | self._containment.refusals.keys()
        whole = {each.key: each for each in good if each.key in told and each.key not in refused and needs_envoy(each)}
        refusals = []
        for policy in policies:
            if policy.key in guilty:
                place, its_why, sure = await self._pin_down(good, policy, guilty[policy.key])
                stand_in, beside = stand_ins[policy.key], {} if sure else whole
                refusal = Refusal(policy, its_why.resource, its_why.text, place, stand_in, self._node, beside)
                refusals.append(refusal)
        return refusals

    async def _hunt(
        self, policies: Sequence[Policy], stand_ins: Mapping[PolicyKey, StandIn], why: _Why
    ) -> dict[PolicyKey, _Why]:
        """Nobody when the rest is refused even without the suspects, which are those that have a stand-in."""
        suspects = [policy for policy in policies if policy.key in stand_ins]
        hunt = Hunt(stand_ins, str(why), [policy.key for policy in likely(suspects, why.text)])
        while (trial := hunt.trial) is not None:
            out = stand_ins.keys() - trial
            await self._try(hunt, [stand_ins[each.key].policy if each.key in out else each for each in policies])
        return {} if hunt.hopeless else {key: _Why.read(text) for key, text in hunt.guilty.items()}

    async def _try(self, hunt: Hunt[PolicyKey] | Hunt[Part], policies: Sequence[Policy]) -> None:
        nacks = await self._offer(policies)
        if nacks:
            hunt.refused(str(_Why.of(nacks)))
        else:
            hunt.accepted()

    async def _pin_down(self, good: Sequence[Policy], policy: Policy, why: _Why) -> tuple[Place, _Why, bool]:
        """The place in the policy, the words about it, and whether these words name it. The whole policy it is where
        each part alone is taken, or none is found soon."""
        candidates = parts_in(policy, why.resource)
        named = [(part, field) for part, field in quoted(policy, why.text) if part in candidates]
        listed = list(dict.fromkeys(part for part, _ in named)) or candidates
        part: Part | None = listed[0] if len(listed) == 1 else None
        if len(listed) > 1:
            hunt = Hunt(listed, str(why))
            for _ in range(_MOST_TRIALS):
                if (trial := hunt.trial) is None:
                    break
                # Beside what is in force, so that nothing is taken away meanwhile.
                await self._try(hunt, [*good, _named_apart(only(policy, trial))])
            if hunt.guilty:
                part, text = next(iter(hunt.guilty.items()))
                why = _Why.read(text)
        field = field_in(policy, part, why.resource, why.text) if part is not None else ""
        return place_of(policy, part, field), why, bool(named)


def _named_apart(policy: Policy) -> Policy:
    """Under a name that no document can have."""
    return replace(policy, key=policy.key._replace(name=f"{policy.key.name}~"))
