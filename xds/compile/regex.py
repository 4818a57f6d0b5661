"""A policy's regular expression, reduced to what Envoy can look up in a map.

Envoy matches `path`, `method` and `host` with RE2 over the whole value. Most expressions people write are a literal, a
few alternatives or a literal with `.*` behind it; those become keys of exact and prefix maps, whose cost does not grow
with the policy. What is not provably the same stays a regex, under the longest literal head that all its matches share.

"The same" is meant for values that an HTTP request carries: `.` matches neither a newline, which no header value holds,
nor a byte that is not UTF-8. Envoy refuses such a byte in a path of HTTP/1; over HTTP/2 it lets it pass, and then the
prefix of `/api/.*` matches where RE2 would not, but nothing that does not start with `/api/`.
Syntax: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MOST_STRINGS = 64  # an expression that spells out more literals than this stays a regex
DEEPEST = 16  # and so does one with more groups in each other; RE2 takes a thousand, more than Python can follow

_META = frozenset("\\.+*?()|[]{}^$")
_PLAIN = re.compile(r"[^\\.+*?()|\[\]{}^$]*")


@dataclass(frozen=True, slots=True)
class Reduction:
    """A value matches when it is in `exact`, starts with one of `prefixes`, or fully matches one of `regexes`.

    `regexes` are (head, regex): every match of the regex starts with the literal head, which may be empty.
    """

    exact: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()
    regexes: tuple[tuple[str, str], ...] = ()

    @property
    def is_any(self) -> bool:
        """True when every value matches."""
        return "" in self.prefixes


_NONE: frozenset[str] = frozenset()
ANY = Reduction(prefixes=frozenset({""}))


@lru_cache(maxsize=4096)
def reduce(regex: str) -> Reduction:
    """Reduce one RE2 expression (valid RE2 is the caller's duty; what cannot be read here stays a regex)."""
    try:
        branches = _branches(regex)
    except _Beyond:
        return Reduction(regexes=(("", regex),))
    exact: set[str] = set()
    prefixes: set[str] = set()
    left: list[tuple[str, str]] = []
    for branch in branches:
        parser = _Branch(branch)
        try:
            words = parser.read_whole()
        except _Beyond:
            left.append((parser.head, branch))
            continue
        exact |= {word.text for word in words if not word.open}
        prefixes |= {word.text for word in words if word.open}
    if not exact and not prefixes and len(branches) > 1 and all(head == "" for head, _ in left):
        left = [("", regex)]
    return Reduction(frozenset(exact) if exact else _NONE, frozenset(prefixes) if prefixes else _NONE, tuple(left))


def spoken_regexes(regex: str) -> tuple[str, ...]:
    """What of a policy's expression reaches Envoy as an expression, so that Envoy may quote it."""
    return tuple(left for _, left in reduce(regex).regexes)


def alternation(regexes: Iterable[str]) -> str:
    """One expression that matches what any of them matches."""
    listed = list(regexes)
    return listed[0] if len(listed) == 1 else "|".join(f"(?:{regex}{_end_of_quote(regex)})" for regex in listed)


def _end_of_quote(regex: str) -> str:
    """What ends a quote that the expression leaves open: `\\Q/a` means `/a`, and would go on into what comes behind."""
    at = 0
    while (at := regex.find("\\", at)) >= 0:
        if not regex.startswith("Q", at + 1):
            at += 2
        elif (at := regex.find("\\E", at + 2)) < 0:
            return "\\E"
        else:
            at += 2
    return ""


class _Beyond(Exception):  # noqa: N818  control flow inside this module, not an error
    """The expression holds something that is not reduced here."""


@dataclass(frozen=True, slots=True)
class _Word:
    """A literal, `open` when `.*` follows it."""

    text: str
    open: bool = False


_EMPTY = frozenset({_Word("")})


def _branches(regex: str) -> list[str]:
    """Split at the `|` outside groups and classes. _Beyond for flags (they reach over branches) and quotes (\\Q)."""
    parts: list[str] = []
    start = depth = at = 0
    while at < len(regex):
        char = regex[at]
        if char == "\\":
            if at + 1 == len(regex) or regex[at + 1] == "Q":
                raise _Beyond
            at += 1
        elif char == "[":
            at = _class_end(regex, at)
        elif char == "(":
            if regex.startswith("(?", at) and not regex.startswith("(?:", at):
                raise _Beyond
            depth += 1
        elif char == ")":
            depth -= 1
            if depth < 0:
                raise _Beyond
        elif char == "|" and depth == 0:
            parts.append(regex[start:at])
            start = at + 1
        at += 1
    if depth:
        raise _Beyond
    return [*parts, regex[start:]]


def _class_end(regex: str, at: int) -> int:
    """The index of the `]` that closes the class opened at `at`; classes inside classes are _Beyond."""
    at += 1
    if regex.startswith("^", at):
        at += 1
    if regex.startswith("]", at):  # a `]` right at the start is a member
        at += 1
    while at < len(regex) and regex[at] != "]":
        if regex[at] == "[":
            raise _Beyond
        at += 2 if regex[at] == "\\" else 1
    if at >= len(regex):
        raise _Beyond
    return at


class _Branch:
    """Reads one branch from left to right; `head` is the literal that everything read so far starts with."""

    def __init__(self, source: str, depth: int = 0) -> None:
        self._source = source
        self._depth = depth
        self._at = 0
        self._words: frozenset[_Word] = _EMPTY

    @property
    def head(self) -> str:
        first, last = min(word.text for word in self._words), max(word.text for word in self._words)
        shared = 0
        while shared < len(first) and first[shared] == last[shared]:  # what the two outermost share, all share
            shared += 1
        return first[:shared]

    def read_whole(self) -> frozenset[_Word]:
        """The words that the branch stands for; _Beyond when it is more than a few words."""
        if self._depth > DEEPEST:
            raise _Beyond
        end = len(self._source)
        if self._depth == 0 and self._source.startswith("^"):
            self._at = 1
            if self._at < end and self._source[self._at] in "*+?{":
                raise _Beyond
        while self._at < end:
            if self._depth == 0 and self._at == end - 1 and self._source[self._at] == "$":
                break
            self._append(self._quantified(self._atom()))
        return self._words

    def _append(self, more: frozenset[_Word]) -> None:
        if more == _EMPTY:
            return
        if any(word.open for word in self._words) and more != frozenset({_Word("", open=True)}):
            raise _Beyond  # something follows `.*`
        if len(self._words) * len(more) > MOST_STRINGS:
            raise _Beyond
        self._words = frozenset(
            _Word(first.text + second.text, open=first.open or second.open) for first in self._words for second in more
        )

    def _quantified(self, words: frozenset[_Word]) -> frozenset[_Word]:
        """Apply what stands behind the atom: nothing, `?`, or for `.` the `*`. A lazy `?` does not change the set."""
        following = self._source[self._at : self._at + 1]
        if words == _DOT:
            if following != "*":
                raise _Beyond
            self._at += 1
            words = frozenset({_Word("", open=True)})
            if self._source.startswith("?", self._at):
                self._at += 1
        elif following == "?":
            self._at += 1
            words |= _EMPTY
            if self._source.startswith("?", self._at):
                self._at += 1
        if self._source[self._at : self._at + 1] in _QUANTIFIERS:
            raise _Beyond
        return words

    def _atom(self) -> frozenset[_Word]:
        char = self._source[self._at]
        if char == "\\":
            self._at += 2
            return frozenset({_Word(_escaped(self._source[self._at - 1]))})
        if char == "[":
            end = _class_end(self._source, self._at)
            members = _members(self._source[self._at + 1 : end])
            self._at = end + 1
            return frozenset(_Word(member) for member in members)
        if char == "(":
            return self._group()
        self._at += 1
        if char == ".":
            return _DOT
        if char in _META:
            raise _Beyond
        return frozenset({_Word(char + self._literal())})

    def _literal(self) -> str:
        """The plain characters from here on, but for one that a quantifier belongs to. Read over."""
        start = self._at
        found = _PLAIN.match(self._source, start)
        end = found.end() if found else start
        if self._source[end : end + 1] in _QUANTIFIERS:  # also when it belongs to the character before: `start` then
            end = max(end - 1, start)
        self._at = end
        return self._source[start:end]

    def _group(self) -> frozenset[_Word]:
        """`(a|b)` and `(?:a|b)`: the words of all branches."""
        start = self._at + (3 if self._source.startswith("(?:", self._at) else 1)
        end = _group_end(self._source, self._at)
        words: set[_Word] = set()
        for branch in _branches(self._source[start:end]):
            words |= _Branch(branch, self._depth + 1).read_whole()
        self._at = end + 1
        if len(words) > MOST_STRINGS:
            raise _Beyond
        return frozenset(words)


_DOT = frozenset({_Word("\x00.")})  # stands for one `.`, which only `*` makes reducible
_QUANTIFIERS = frozenset("*+?{")


def _group_end(source: str, at: int) -> int:
    depth = 0
    while True:
        char = source[at]
        if char == "\\":
            at += 1
        elif char == "[":
            at = _class_end(source, at)
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return at
        at += 1


def _escaped(char: str) -> str:
    """Escaped ASCII punctuation is itself; letters, digits and `_` behind a backslash mean other things."""
    if not char.isascii() or char.isalnum() or char == "_":
        raise _Beyond
    return char


def _members(inside: str) -> list[str]:
    """The characters of a class such as `12` or `a-c`; a negated one is _Beyond."""
    if not inside or inside[0] in "^]":
        raise _Beyond
    members: list[str] = []
    at = 0
    while at < len(inside):
        char, at = _member(inside, at)
        if at < len(inside) - 1 and inside[at] == "-":
            last, at = _member(inside, at + 1)
            if last < char or ord(last) - ord(char) >= MOST_STRINGS:
                raise _Beyond
            members += [chr(code) for code in range(ord(char), ord(last) + 1)]
        else:
            members.append(char)
    return members


def _member(inside: str, at: int) -> tuple[str, int]:
    if inside[at] == "\\":
        return _escaped(inside[at + 1]), at + 2
    return inside[at], at + 1
