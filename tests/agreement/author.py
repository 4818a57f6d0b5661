"""What all writers of random documents share: how they choose, what is around them, and what they note down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from lockgate.policies.identity import IPNetwork
from lockgate.policies.language.unsupported import UNSUPPORTED
from lockgate.tests.agreement.case import Document
from lockgate.tests.agreement.patterns import Pattern

T = TypeVar("T")


def enforced(feature: str) -> bool:
    """True when the readers accept the feature: it leaves `Feature` on the day that it is enforced."""
    return feature not in {each.name for each in UNSUPPORTED}


@dataclass(frozen=True, slots=True)
class Wish:
    """What one http or grpc condition asks for. `headers` are (name, value), None for presence; `changing` names those
    that are set right instead of failing. `grpc` is a wish for a call."""

    method: Pattern | None = None
    path: Pattern | None = None
    host: Pattern | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    changing: frozenset[str] = frozenset()
    grpc: bool = False

    @property
    def key(self) -> tuple[str | None, ...]:
        """The expressions, by which to find the wish again behind a resolved rule."""
        return tuple(each.text if each else None for each in (self.method, self.path, self.host))


@dataclass
class Hints:
    """Where a policy may change its mind; flows are made of them."""

    ports: set[int] = field(default_factory=lambda: {80})
    networks: set[IPNetwork] = field(default_factory=set)
    wishes: list[Wish] = field(default_factory=list)
    icmp: set[int] = field(default_factory=lambda: {0, 8, 13, 128, 129})
    tls: bool = False  # a rule is about TLS


class Author:
    """Chooses evenly and independently: what hypothesis draws value by value repeats itself a good deal."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.hints = Hints()
        self.workloads: list[Document] = []
        self.secrets: dict[tuple[str, str], str] = {}  # (namespace, name) -> value

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return self.random.choice(options)

    def chance(self, percent: int) -> bool:
        """True so often."""
        return self.random.randrange(100) < percent

    def number(self, least: int, most: int) -> int:
        """Both included."""
        return self.random.randint(least, most)

    def some(self, make: Callable[[], T], least: int, most: int) -> list[T]:
        """From `least` to `most` of what `make` makes."""
        return [make() for _ in range(self.number(least, most))]

    def workload(self, namespace: str) -> Document:
        """One that a selector is to mean, most often of the namespace that the policy is in."""
        if namespace and self.chance(70):
            return self.pick([each for each in self.workloads if each["namespace"] == namespace] or self.workloads)
        return self.pick(self.workloads)
