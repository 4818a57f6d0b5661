"""RE2 as Envoy uses it: whole value, case-sensitive, UTF-8 (https://github.com/google/re2/wiki/Syntax)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

_LITERAL = re.compile(r"[A-Za-z0-9/_\-:@~,;%&=!#'\" <>]*")
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:  # google-re2 has no type hints
    return re2.compile(pattern, _OPTIONS)


def is_literal(pattern: str) -> bool:
    """True when the pattern has no character that means anything but itself (a sufficient test)."""
    return _LITERAL.fullmatch(pattern) is not None


def regex_error(pattern: str) -> str | None:
    """What RE2 says against the pattern; None when it accepts it."""
    if is_literal(pattern):
        return None
    try:
        _compiled(pattern)
    except re2.error as error:
        text = error.args[0] if error.args else "refused"
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return None


def matches(pattern: str, value: str) -> bool:
    """True when the pattern matches the whole value."""
    if is_literal(pattern):
        return pattern == value
    return _compiled(pattern).fullmatch(value) is not None
