"""What came of bringing a world into force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

from ...policies.endpoint_policy import RuleOrigin

_MOST_TOLD = 3  # one policy may be in the shards of many endpoints


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one attempt. `nacks` are Envoy's texts by resource when it refused: then nothing was changed."""

    nacks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unconfirmed: bool = False  # Envoy has not answered; to be tried again
    unexpressed: tuple[tuple[RuleOrigin, str], ...] = ()  # rules that Envoy cannot carry out; they allow nothing
    problems: tuple[str, ...] = ()
    unspared: str = ""  # a problem for which nothing has to be tried again

    @property
    def nack(self) -> str:
        """Envoy's texts in one line, those about the first resources; empty when it refused nothing."""
        told = [f"{resource}: {text}" for resource, text in islice(self.nacks.items(), _MOST_TOLD)]
        more = len(self.nacks) - len(told)
        return "; ".join([*told, f"and {more} more"] if more else told)
