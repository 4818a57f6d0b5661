"""Header changes of one kind of peer and port as a matcher tree: for each request, the changes of all rules it matches.

The rules are no union here, as they are in http_tree: a request gets the changes of every rule that matches, in the
order of the rules, each judged by the request as it came. So every path through the tree decides every rule that is
still open: exact values and prefixes tell most of them apart in maps, and what is left (regexes, headers) is decided
one after the other at the leaves. No tree here misses: a miss would fall back to a shorter prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import re2

from ...policies.endpoint_policy import HeaderMatch, HttpRule, HttpRules, MismatchAction
from ...policies.header_action import HeaderAction
from .header_change import NOTHING, Change, changes
from .header_condition import can_match, holds, is_known
from .http_tree import joined
from .matcher import OnMatch, Predicate, any_of, descend, exact_map, first_of, matches, prefix_map, request_header
from .regex import ANY, Reduction, reduce

_INPUTS = (request_header(":method"), request_header(":path"), request_header(":authority"))
_LEAVES = len(_INPUTS)

# A leaf decides at most so many things that hold together (Envoy parses 100 nested messages at most, and each takes
# four), and has at most so many outcomes.
MOST_TOGETHER = 12
MOST_OUTCOMES = 1000


class TooManyChanges(Exception):  # noqa: N818  the caller turns it into a refusal
    """More combinations of header changes than one filter can hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Acting:
    """One http rule that may change headers. Compared by identity."""

    rule: str  # its name, where LOG tells it
    fields: tuple[Reduction, Reduction, Reduction]
    needed: tuple[HeaderMatch, ...]  # must hold, or the rule does nothing
    acting: tuple[HeaderMatch, ...]
    only: tuple[Predicate, ...] = ()  # must hold as well


@dataclass(frozen=True, slots=True)
class _Open:
    """A rule that matches as far as the tree has come if all of `left` hold."""

    rule: Acting
    left: tuple[Predicate, ...] = ()


_Known: TypeAlias = Mapping[Predicate, bool]


def acting_rules(name: str, rules: HttpRules, only: tuple[Predicate, ...] = ()) -> list[Acting]:
    """The http rules of one policy rule that may change headers, where `only` holds."""
    return [acting for rule in rules.http if (acting := _acting(name, rule, only)) is not None]


def change_tree(rules: Sequence[Acting]) -> OnMatch:
    """The tree, or the action itself where nothing has to be decided. Raises TooManyChanges."""
    return _Builder().level(0, tuple(_Open(rule, rule.only) for rule in rules))


def _acting(name: str, rule: HttpRule, only: tuple[Predicate, ...]) -> Acting | None:
    acting = tuple(header for header in rule.headers if header.mismatch is not MismatchAction.DENY)
    if not acting or not all(map(can_match, rule.headers)):
        return None
    fields = tuple(ANY if regex is None else reduce(regex) for regex in (rule.method, rule.path, rule.host))
    needed = tuple(header for header in rule.headers if header.mismatch is MismatchAction.DENY)
    logging = any(header.mismatch is MismatchAction.LOG for header in acting)
    return Acting(name if logging else "", (fields[0], fields[1], fields[2]), needed, acting, only)


class _Builder:
    """One tree. Equal parts of it are made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, tuple[_Open, ...]], OnMatch] = {}

    def level(self, depth: int, rules: tuple[_Open, ...]) -> OnMatch:
        """The tree from one field on (method, path, host, then the leaves)."""
        if not rules:
            return NOTHING
        if depth == _LEAVES:
            return _Leaf(rules).tree()
        if (depth, rules) not in self._made:
            self._made[depth, rules] = self._field(depth, rules)
        return self._made[depth, rules]

    def _field(self, depth: int, rules: tuple[_Open, ...]) -> OnMatch:
        if all(each.rule.fields[depth].is_any for each in rules):
            return self.level(depth + 1, rules)
        index = _FieldIndex(depth, rules)
        reads = _INPUTS[depth]
        tree = self.level(depth + 1, index.under(""))
        heads = {head: self.level(depth + 1, index.under(head)) for head in index.heads}
        if any(each != tree for each in heads.values()):
            tree = descend(prefix_map(reads, heads, tree))
        values = {value: self.level(depth + 1, index.at(value)) for value in index.values}
        if values:
            tree = descend(exact_map(reads, values, tree))
        return tree


class _FieldIndex:
    """Which of the rules match a value of one field, or values with a head."""

    def __init__(self, depth: int, rules: tuple[_Open, ...]) -> None:
        self._rules = rules
        self._depth = depth
        self._exact: dict[str, set[int]] = {}
        self._prefixes: dict[str, set[int]] = {}
        self._regexes: dict[str, set[int]] = {}
        for at, each in enumerate(rules):
            field = each.rule.fields[depth]
            for value in field.exact:
                self._exact.setdefault(value, set()).add(at)
            for prefix in field.prefixes:
                self._prefixes.setdefault(prefix, set()).add(at)
            for head, _ in field.regexes:
                self._regexes.setdefault(head, set()).add(at)
        self.values = sorted(self._exact)
        self.heads = sorted({*self._prefixes, *self._regexes} - {""})

    def at(self, value: str) -> tuple[_Open, ...]:
        """The rules that match this very value."""
        sure = self._exact[value] | _along(self._prefixes, value)
        sure |= {at for at in _along(self._regexes, value) - sure if self._regex_matches(at, value)}
        return tuple(self._rules[at] for at in sorted(sure))

    def under(self, head: str) -> tuple[_Open, ...]:
        """The rules that match a value that begins with this head, with no longer one and is none of `values`; those
        whose regex has to be asked come with it as a predicate."""
        sure = _along(self._prefixes, head)
        asked = _along(self._regexes, head) - sure
        found = []
        for _, group in groupby(sorted(sure | asked), lambda at: self._alike(self._rules[at])):
            alike = list(group)
            each = self._rules[alike[0]]
            if not sure.intersection(alike):
                regexes = [regex for at in alike for start, regex in self._regexes_of(at) if head.startswith(start)]
                each = _Open(
                    each.rule, (*each.left, any_of([matches(_INPUTS[self._depth], one) for one in joined(regexes)]))
                )
            found.append(each)
        return tuple(found)

    def _alike(self, each: _Open) -> tuple[object, ...]:
        """What tells a rule from one that goes on alike from here; such neighbours become one."""
        rule = each.rule
        return rule.rule, rule.fields[self._depth + 1 :], rule.needed, rule.acting, each.left

    def _regexes_of(self, at: int) -> tuple[tuple[str, str], ...]:
        return self._rules[at].rule.fields[self._depth].regexes

    def _regex_matches(self, at: int, value: str) -> bool:
        return any(re2.fullmatch(regex, value) is not None for _, regex in self._regexes_of(at))


def _along(entries: Mapping[str, set[int]], text: str) -> set[int]:
    """What stands under any beginning of the text, from nothing to the whole."""
    found: set[int] = set()
    for end in range(len(text) + 1):
        found |= entries.get(text[:end], set())
    return found


class _Leaf:
    """What is left to decide when method, path and host have been looked up."""

    def __init__(self, rules: Sequence[_Open]) -> None:
        self._rules = rules
        names = [header.name for each in rules for header in each.rule.acting]
        self._shared = {name for name in names if names.count(name) > 1}
        tested = [header for each in rules for header in (*each.rule.needed, *each.rule.acting)]
        tested += [HeaderMatch(name) for name in self._shared]
        self._tests = {holds(header): (header.name, header.value) for header in tested}
        self._outcomes = 0

    def tree(self) -> OnMatch:
        """Decide one predicate after the other; those that fail stand in one list, those that hold nest."""
        return self._decide({}, 0)

    def _decide(self, known: dict[Predicate, bool], together: int) -> OnMatch:
        if together > MOST_TOGETHER:
            raise TooManyChanges
        entries: list[tuple[Predicate, OnMatch]] = []
        known = dict(known)
        while isinstance(found := self._outcome(known), bytes):
            entries.append((found, self._decide({**known, **self._implied(found, True)}, together + 1)))
            known |= self._implied(found, False)
        self._outcomes += 1
        if self._outcomes > MOST_OUTCOMES:
            raise TooManyChanges
        otherwise = changes(found)
        while entries and entries[-1][1] == otherwise:
            entries.pop()
        return descend(first_of(entries, otherwise)) if entries else otherwise

    def _implied(self, decided: Predicate, verdict: bool) -> dict[Predicate, bool]:
        """What is known with one more decision: a header has one value, and an absent one has none."""
        implied = {decided: verdict}
        if decided in self._tests:
            name, value = self._tests[decided]
            for other, (its_name, its_value) in self._tests.items():
                if its_name == name and (verdict if value is not None else not verdict):
                    implied[other] = its_value in (None, value) if verdict else False
                elif (its_name, its_value) == (name, value):
                    implied[other] = verdict
        return implied

    def _outcome(self, known: _Known) -> Predicate | list[Change]:
        """The changes to make, or the predicate that has to be decided next."""
        done: dict[Change, None] = {}
        for each in self._rules:
            rule = each.rule
            if all(_change(rule.rule, header) in done for header in rule.acting):
                continue
            verdict = _first_that_fails((*each.left, *map(holds, rule.needed)), known)
            if isinstance(verdict, bytes):
                return verdict
            if not verdict:
                continue
            for header in rule.acting:
                change = self._decided(rule.rule, header, known)
                if isinstance(change, bytes):
                    return change
                if change is not None:
                    done[change] = None
        return list(done)

    def _decided(self, rule: str, header: HeaderMatch, known: _Known) -> Predicate | Change | None:
        """What the header match does, None when it holds; or the predicate to be decided first."""
        if header.mismatch is MismatchAction.DELETE:
            if header.value is None:
                return None
            if header.name in self._shared:  # what another change has put there is not to be deleted
                there = holds(HeaderMatch(header.name))
                if not known.get(there):
                    return there if there not in known else None
        if is_known(header.name) and not self._needs_no_look(header):
            verdict = known.get(holds(header))
            if verdict is not False:
                return holds(header) if verdict is None else None
        return _change(rule, header)

    def _needs_no_look(self, header: HeaderMatch) -> bool:
        """True where the action on a header that holds would leave it as it is, and nothing else touches it."""
        replacing = header.mismatch is MismatchAction.REPLACE and header.value is not None
        return replacing and header.name not in self._shared


def _change(rule: str, header: HeaderMatch) -> Change:
    """Of equal changes one is enough, but LOG tells each rule."""
    logging = header.mismatch is MismatchAction.LOG
    return Change(rule if logging else "", HeaderAction(header.mismatch, header.name, header.value, header.secret))


def _first_that_fails(needed: Iterable[Predicate], known: _Known) -> Predicate | bool:
    """True when all hold, False when one is known to fail, else the first that is not known yet."""
    unknown = [each for each in needed if each not in known]
    if any(known.get(each) is False for each in needed):
        return False
    return unknown[0] if unknown else True
