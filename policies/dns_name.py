"""DNS names against patterns, for toFQDNs, dns rules and serverNames.

https://docs.cilium.io/en/stable/security/policy/language/#dns-based
"""

from __future__ import annotations

import re
from functools import lru_cache

from .endpoint_policy import DnsRule

_CHARACTERS = "[-a-z0-9_]"


def pattern_regex(pattern: str) -> str:
    """The pattern as a regular expression over the whole name, which RE2 and Python read alike."""
    parts = []
    rest = pattern
    if rest.startswith("**."):
        parts.append(f"(?:{_CHARACTERS}+\\.)+")
        rest = rest[3:]
    parts += [
        f"{_CHARACTERS}*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", re.sub(r"\*+", "*", rest))
    ]
    return "".join(parts)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern_regex(pattern))


def pattern_matches(pattern: str, name: str) -> bool:
    """True when `name` is what `pattern` means: `*` alone is any name, `*` inside stands for characters of one label,
    and `**.` in front for one or more whole labels."""
    name = name.lower().removesuffix(".")
    return pattern == "*" or _compiled(pattern).fullmatch(name) is not None


def server_name_matches(pattern: str, name: str) -> bool:
    """The same for the server name in a TLS greeting, which has no final dot
    (https://www.rfc-editor.org/rfc/rfc6066#section-3) and, to match anything, is not empty."""
    return bool(name) and (pattern == "*" or _compiled(pattern).fullmatch(name.lower()) is not None)


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
