"""Selectors: which labels an identity must have to be meant.

Semantics as Kubernetes label selectors, with sources on the keys
(https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from .labels import ANY, Label


class Operator(StrEnum):
    """What a requirement asks of the key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"

    __hash__ = str.__hash__  # a part of every selector, and Enum's own is slow


class Requirement(NamedTuple):
    """One condition. `values` is sorted and only used by In and NotIn. matchLabels `a: b` is In with one value."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def names(self, label: Label) -> bool:
        """True when the requirement's key means this label."""
        return label.key == self.key and (self.source == ANY or label.source == self.source)

    def holds(self, labels: Iterable[Label]) -> bool:
        """True when the labels satisfy the requirement. NotIn and DoesNotExist hold when the key is absent."""
        found = [label.value for label in labels if self.names(label)]
        match self.operator:
            case Operator.EXISTS:
                return bool(found)
            case Operator.DOES_NOT_EXIST:
                return not found
            case Operator.IN:
                return any(value in self.values for value in found)
            case Operator.NOT_IN:
                return not any(value in self.values for value in found)

    def __str__(self) -> str:
        key = self.key if self.source == ANY else f"{self.source}:{self.key}"
        match self.operator:
            case Operator.EXISTS:
                return key
            case Operator.DOES_NOT_EXIST:
                return f"!{key}"
            case Operator.IN if len(self.values) == 1:
                return f"{key}={self.values[0]}" if self.values[0] else key
            case Operator.IN:
                return f"{key} in ({', '.join(self.values)})"
            case Operator.NOT_IN:
                return f"{key} not in ({', '.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none at all is everybody. Sorted, so that selectors of one meaning are equal."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def of(cls, requirements: Iterable[Requirement]) -> Selector:
        """The selector in its one canonical form. Equal ones are mostly one object: policies of ten thousand rules are
        about a few hundred workloads."""
        return _shared(tuple(sorted(set(requirements))))

    def __reduce__(self) -> tuple[object, ...]:
        """They are that also when they come from another process."""
        return _shared, (self.requirements,)

    def matches(self, labels: Iterable[Label]) -> bool:
        """True when every requirement holds for the labels."""
        labels = tuple(labels)
        return all(requirement.holds(labels) for requirement in self.requirements)

    def names_key(self, key: str, sources: tuple[str, ...] = (ANY, "k8s")) -> bool:
        """True when a requirement is about `key` under one of `sources`."""
        return any(item.key == key and item.source in sources for item in self.requirements)

    def __str__(self) -> str:
        return ", ".join(str(requirement) for requirement in self.requirements) or "everybody"


@lru_cache(maxsize=4096)
def _shared(requirements: tuple[Requirement, ...]) -> Selector:
    return Selector(requirements)
