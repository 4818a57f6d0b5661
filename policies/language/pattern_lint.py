"""Patterns that RE2 accepts and their authors probably did not mean."""

from __future__ import annotations

import re

from ..regex import is_literal

# One step through a regular expression: an escape, a class, a dot with what quantifies it, or any other character.
_STEP = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<dot>\.)(?P<many>[*+?{])?|.", re.DOTALL)


def path_warning(pattern: str) -> tuple[str, str] | None:
    """(what is odd, what to write) for a path that looks like a prefix; the whole path has to match."""
    if not is_literal(pattern):
        return None
    if pattern.endswith("/"):
        return f"matches the path '{pattern}' only, nothing below it", f"write {pattern}.* for everything below"
    if not pattern.startswith("/"):
        return f"'{pattern}' matches no request: a path starts with '/'", f"write /{pattern}"
    return None


def host_warning(pattern: str) -> tuple[str, str] | None:
    """(what is odd, what to write) for a host in which a dot stands for any character."""
    fixed, found = "", False
    for step in _STEP.finditer(pattern):
        bare = step["dot"] is not None and step["many"] is None
        found |= bare
        fixed += "\\." if bare else step[0]
    return ("an unescaped '.' matches any character", f"write {fixed}") if found else None
