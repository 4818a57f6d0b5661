"""Versions of a policy in two files, changed at random, and what each of them means for a request. Pure.

A version is possible from the moment before its file was renamed into place until a later one is known to be in force,
and a little longer. A request is judged by all versions that were possible between its beginning and its end.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from .policy_set import endpoint_name

PATHS = 48
ALWAYS, NEVER = 0, 1  # the path that every version allows, and the one that none does
FILES = ("a", "b")
SERVER, CLIENT, PORT = endpoint_name(0), "client", 80
_POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: route-{name}}}
spec:
  endpointSelector: {{matchLabels: {{app: {server}}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: {client}}}}}]
    toPorts:
    - ports: [{{port: "{port}", protocol: TCP}}]
      rules:
        http:
        - {{method: GET, path: "{marker}"}}
"""
_RULE = '        - {{method: GET, path: "{path}"}}\n'


class Kind(StrEnum):
    """What a change does."""

    TOGGLE = "paths come and go"
    MOVE = "a rule moves from one policy to the other"
    SAME = "a policy is written again"
    OTHER = "a policy of other pods comes or goes"


def path_of(number: int) -> str:
    """What is asked for."""
    return f"/r/{number}/x"


def marker_of(version: int) -> str:
    """A path that this version allows and no other."""
    return f"/marker/{version}"


def policy(name: str, allowed: frozenset[int], version: int) -> str:
    """One of the two files: exact paths, regexes and prefixes in turn."""
    spoken = (path_of, lambda number: f"/r/{number}/[a-z]", lambda number: f"/r/{number}/.*")
    rules = "".join(_RULE.format(path=spoken[number % 3](number)) for number in sorted(allowed))
    head = _POLICY.format(name=name, server=SERVER, client=CLIENT, port=PORT, marker=marker_of(version))
    return head + rules


@dataclass(frozen=True, slots=True)
class Write:
    """One file to be written; with `other` it says nothing of the paths."""

    kind: Kind
    file: str
    allowed: frozenset[int] = frozenset()
    other: bool = False


class Changes:
    """Random changes, each a burst of writes that nothing is awaited between."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        half = {number for number in range(2, PATHS) if self._random.random() < 0.5}
        self.files = {"a": frozenset({ALWAYS}), "b": frozenset(half)}

    def bursts(self) -> Iterator[list[Write]]:
        """Without end."""
        while True:
            count = 3 if self._random.random() < 0.2 else 1
            yield [write for _ in range(count) for write in self._change()]

    def pause(self) -> float:
        """Seconds until the next burst."""
        return self._random.random() * 0.2

    def _change(self) -> Iterator[Write]:
        kind = self._random.choice((Kind.TOGGLE, Kind.TOGGLE, Kind.TOGGLE, Kind.MOVE, Kind.SAME, Kind.OTHER))
        file = self._random.choice(FILES)
        if kind is Kind.TOGGLE:
            numbers = self._random.sample(range(2, PATHS), self._random.randint(1, 4))
            yield self._write(kind, file, self.files[file] ^ frozenset(numbers))
        elif kind is Kind.MOVE:
            target = FILES[1 - FILES.index(file)]
            number = self._random.choice(sorted(self.files[file] or {ALWAYS}))
            yield self._write(kind, target, self.files[target] | {number})
            if number in self.files[file]:
                yield self._write(kind, file, self.files[file] - {number})
        elif kind is Kind.SAME:
            yield self._write(kind, file, self.files[file])
        else:
            yield Write(kind, f"other-{self._random.randrange(5)}", other=True)

    def _write(self, kind: Kind, file: str, allowed: frozenset[int]) -> Write:
        self.files[file] = allowed
        return Write(kind, file, allowed)


@dataclass(frozen=True, slots=True)
class Request:
    """One that was answered, or was not: status 0. Monotonic seconds."""

    path: int
    began: float
    ended: float
    status: int


@dataclass(slots=True)
class Tally:
    """What came of the requests. `wrong` are sentences about the first that should not have ended so."""

    allowed: int = 0  # by every possible version
    denied: int = 0  # by every possible version
    either: int = 0
    failed: int = 0  # of the allowed: anything but 200
    passed: int = 0  # of the denied: 200
    broken: int = 0  # of the others: neither 200 nor 403
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Timeline:
    """Which versions there were, and when each was possible."""

    grace: float  # seconds that a version is still possible after a later one was seen in force
    begins: list[float] = field(default_factory=list)
    allowed: list[frozenset[int]] = field(default_factory=list)
    _over: list[tuple[float, int]] = field(default_factory=list)  # from when on the versions below a number are over

    def add(self, moment: float, allowed: frozenset[int]) -> int:
        """A version whose file is renamed into place after this moment; its number."""
        self.begins.append(moment)
        self.allowed.append(allowed)
        return len(self.begins) - 1

    def seen(self, version: int, moment: float) -> None:
        """It was in force at this moment."""
        self._over.append((moment + self.grace, version))

    def possible(self, began: float, ended: float) -> range:
        """The numbers of the versions that were possible at some moment between."""
        last = bisect_right(self.begins, ended)
        over = bisect_right(self._over, (began, last))
        return range(self._over[over - 1][1] if over else 0, last)

    def judge(self, request: Request, tally: Tally) -> None:
        """Count it."""
        versions = self.possible(request.began, request.ended)
        says = {request.path in self.allowed[number] for number in versions}
        if says == {True}:
            tally.allowed += 1
            wrong = request.status != 200
            tally.failed += wrong
        elif says == {False}:
            tally.denied += 1
            wrong = request.status != 403
            tally.passed += request.status == 200
            tally.broken += request.status not in (200, 403)
        else:
            tally.either += 1
            wrong = request.status not in (200, 403)
            tally.broken += wrong
        if wrong and len(tally.wrong) < 20:
            tally.wrong.append(
                f"{path_of(request.path)} got {request.status or 'no answer'} after "
                f"{(request.ended - request.began) * 1000:.1f} ms; possible were versions {versions.start} to "
                f"{versions.stop - 1}, of which {'all' if says == {True} else 'none' if says == {False} else 'some'} "
                "allow it"
            )
