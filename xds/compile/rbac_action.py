"""The two things a tree can say in Envoy's RBAC filter: envoy.config.rbac.v3.Action with the name of what decided.

https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/rbac/v3/rbac.proto#config-rbac-v3-action
"""

from __future__ import annotations

from functools import lru_cache

from ..wire import number, text
from .matcher import OnMatch, act, extension

_ALLOW, _DENY = 0, 1  # envoy.config.rbac.v3.RBAC.Action


@lru_cache(maxsize=4096)
def allow(name: str) -> OnMatch:
    """Let the request pass; `name` see rule_name.py."""
    return _action(name, _ALLOW)


@lru_cache(maxsize=4096)
def deny(name: str) -> OnMatch:
    """Answer 403; `name` stands in the response code details."""
    return _action(name, _DENY)


def _action(name: str, verdict: int) -> OnMatch:
    return act(extension("action", "envoy.config.rbac.v3.Action", text(1, name) + number(2, verdict)))
