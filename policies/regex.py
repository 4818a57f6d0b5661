"""RE2 as Envoy uses it: whole value, case-sensitive, UTF-8 (https://github.com/google/re2/wiki/Syntax)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

_LITERAL = re.compile(r"[A-Za-z0-9/_\-:@~,;%&=!#'\" <>]*")
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = (
    1 << 20
)  # an eighth of RE2's own: some 50,000 instructions, and a refusal takes an eighth of the time

# As many of RE2's instructions as one policy may have in all of its patterns: to compile them takes a quarter of a
# second, and to try all of them on what patterns are hardest on, the longest path (http_path.LONGEST), some eight.
# Ordinary patterns have 20 to 100, `.{1000}` has 8000, and a few bytes can ask for any number.
MOST_INSTRUCTIONS = 250_000
_OF_ONE_REFUSED = 50_000  # what was done before RE2 refused it
_LARGE = 2000
LONGEST = 8192  # characters; what RE2 and the compiler do to some patterns grows with the square


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:  # google-re2 has no type hints
    return re2.compile(pattern, _OPTIONS)


def is_literal(pattern: str) -> bool:
    """True when the pattern has no character that means anything but itself (a sufficient test)."""
    return _LITERAL.fullmatch(pattern) is not None


def regex_error(pattern: str) -> str | None:
    """What RE2 says against the pattern; None when it accepts it."""
    return measured(pattern)[0]


def measured(pattern: str) -> tuple[str | None, int]:
    """The same, and how many instructions it has been compiled to."""
    return (None, 0) if is_literal(pattern) else _measured(pattern)


@lru_cache(maxsize=4096)
def _measured(pattern: str) -> tuple[str | None, int]:
    try:
        size: int = re2.compile(pattern, _OPTIONS).programsize
    except re2.error as error:
        text = error.args[0] if error.args else "refused"
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text), _OF_ONE_REFUSED
    if size > _LARGE:
        re2.purge()  # which keeps the last 128 otherwise
    return None, size


def matches(pattern: str, value: str) -> bool:
    """True when the pattern matches the whole value."""
    if is_literal(pattern):
        return pattern == value
    return _compiled(pattern).fullmatch(value) is not None
