"""One header condition as a predicate on the request."""

from __future__ import annotations

import re
from functools import lru_cache

from ...policies.endpoint_policy import HeaderMatch, MismatchAction
from ...policies.secret import MARK
from .matcher import Predicate, all_of, equals, is_present, not_, request_header

# What the bootstrap writes into a request without X-Forwarded-Proto, so that Envoy adds none and the route can take it
# away again (envoy/config/http_routes.py): to a policy the header is not there.
FORWARDED_PROTO = "x-forwarded-proto"
ABSENT_FORWARDED_PROTO = "lockgate-absent"

# https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_NAME = re.compile(r":(?:path|method|authority)|[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_known(name: str) -> bool:
    """False for a name that no request has: one that HTTP does not know, or a pseudo header that policies do not."""
    return _NAME.fullmatch(name) is not None


def can_match(header: HeaderMatch) -> bool:
    """False when no request matches the rule: its secret gives no value, or it needs a header that none has."""
    return not header.lacks and (header.mismatch is not MismatchAction.DENY or is_known(header.name))


@lru_cache(maxsize=4096)
def holds(header: HeaderMatch) -> Predicate:
    """The header is there, and has the value if there is one to have. What it does otherwise does not matter here."""
    reads = request_header(header.name, MARK if header.secret else "header")
    if header.value is not None:
        return equals(reads, header.value)
    if header.name == FORWARDED_PROTO:
        return all_of([is_present(reads), not_(equals(reads, ABSENT_FORWARDED_PROTO))])
    return is_present(reads)


@lru_cache(maxsize=4096)
def all_hold(headers: tuple[HeaderMatch, ...]) -> Predicate:
    """Every one holds; at least one is needed."""
    return all_of([holds(header) for header in headers])
