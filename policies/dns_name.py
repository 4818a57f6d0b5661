"""DNS names against patterns, for toFQDNs, dns rules and serverNames.

https://docs.cilium.io/en/stable/security/policy/language/#dns-based
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

from .endpoint_policy import DnsRule

_CHARACTERS = "[-a-z0-9_]"
_LABELS = f"{_CHARACTERS}+(?:\\.{_CHARACTERS}+)*"  # whole labels, one or more
_LABELS_BEFORE = re.compile(r"\A\*{2,}\.")
# Patterns and names come from others, and what Python's own expressions need grows with the stars beyond all bounds:
# ten of them and a label of sixty characters take days.
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 18


def canonical_pattern(pattern: str) -> str:
    """The one way to write a pattern that other ways mean as well: nothing but stars is `*`, and however many stars
    before the first dot are two."""
    if pattern and not pattern.strip("*"):
        return "*"
    return _LABELS_BEFORE.sub("**.", pattern)


def pattern_regex(pattern: str) -> str:
    """The canonical pattern as a regular expression over the whole name."""
    parts = []
    rest = pattern
    if rest.startswith("**."):
        parts.append(f"{_LABELS}\\.")
        rest = rest[3:]
    parts += [
        f"{_CHARACTERS}*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", re.sub(r"\*+", "*", rest))
    ]
    return "".join(parts)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:  # google-re2 has no type hints
    return re2.compile(pattern_regex(pattern), _OPTIONS)


def pattern_matches(pattern: str, name: str) -> bool:
    """True when `name` is what `pattern` means: `*` alone is any name, `*` inside stands for characters of one label,
    and `**.` in front for one or more whole labels."""
    name = name.lower().removesuffix(".")
    return pattern == "*" or _compiled(pattern).fullmatch(name) is not None


def server_name_regex(pattern: str) -> str:
    """A pattern of `serverNames` as a regular expression over the whole name: there `**` stands for whole labels
    wherever it is one, and `*` alone for any name of DNS
    (https://docs.cilium.io/en/stable/security/policy/language/#limit-tls-server-name-indication-sni)."""
    if pattern == "*":
        return _LABELS
    stars = {"**": _LABELS, "*": f"{_CHARACTERS}*"}
    return "".join(stars.get(part) or re.escape(part) for part in re.split(r"(\*\*?)", pattern))


@lru_cache(maxsize=4096)
def _compiled_server_name(pattern: str) -> Any:
    return re2.compile(server_name_regex(pattern), _OPTIONS)


def server_name_matches(pattern: str, name: str) -> bool:
    """True when the server name in a TLS greeting is what the pattern means. Such a name has no final dot
    (https://www.rfc-editor.org/rfc/rfc6066#section-3) and, to match anything, is not empty."""
    return _compiled_server_name(pattern).fullmatch(name.lower()) is not None


def any_server_name_matches(patterns: tuple[str, ...], name: str) -> bool:
    """True when one of them does; quick however many there are without `*`."""
    exact, others = _exact_and_others(patterns)
    return name.lower() in exact or any(server_name_matches(each, name) for each in others)


@lru_cache(maxsize=1024)
def _exact_and_others(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    return (
        frozenset(each for each in patterns if "*" not in each),
        tuple(each for each in patterns if "*" in each),
    )


def rule_matches(rule: DnsRule, name: str) -> bool:
    """True when the name is the one of matchName, or fits matchPattern."""
    if rule.match_name is not None:
        return rule.match_name == name.lower().removesuffix(".")
    return rule.match_pattern is not None and pattern_matches(rule.match_pattern, name)
