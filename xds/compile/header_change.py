"""What is done to a request's headers, as the action of a matcher tree: a filter that Envoy runs where the tree ends.

https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/composite_filter and, for the two filters
it runs, header_mutation_filter and set_metadata_filter there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...policies.endpoint_policy import MismatchAction
from ...policies.header_action import HeaderAction
from ...policies.secret import MARK
from ..wire import frame, number, text
from .matcher import OnMatch, act, extension

# Where the names of LOG's rules are left for the access log.
LOGGED_NAMESPACE, LOGGED_KEY = "lockgate.mismatch", "rules"

_FILTERS = "envoy.extensions.filters.http."
_APPEND, _OVERWRITE = 0, 2  # envoy.config.core.v3.HeaderValueOption.HeaderAppendAction
_KEEP_EMPTY = number(4, 1)


@dataclass(frozen=True, slots=True)
class Change:
    """One action and, for LOG, the name of the rule that takes it."""

    rule: str
    action: HeaderAction


def changes(listed: Sequence[Change]) -> OnMatch:
    """Do all of them, in order; nothing when there are none (which is not a miss: the tree ends there)."""
    mutations = [mutation for change in listed for mutation in _mutations(change.action)]
    secret = any(change.action.secret and change.action.action is not MismatchAction.LOG for change in listed)
    logged = [f"{change.rule} {change.action.name}" for change in listed if change.action.action is MismatchAction.LOG]
    filters = []
    if mutations or not logged:
        body = frame(1, b"".join(frame(1, mutation) for mutation in mutations)) if mutations else b""
        filters.append(extension(MARK if secret else "headers", f"{_FILTERS}header_mutation.v3.HeaderMutation", body))
    if logged:
        filters.append(extension("log", f"{_FILTERS}set_metadata.v3.Config", frame(3, _metadata(logged))))
    return run(filters)


def run(filters: Sequence[bytes]) -> OnMatch:
    """Let the request pass through these filters, at least one."""
    body = frame(1, filters[0]) if len(filters) == 1 else frame(4, b"".join(frame(1, each) for each in filters))
    return act(extension("run", f"{_FILTERS}composite.v3.ExecuteFilterAction", body))


NOTHING = changes(())


def _mutations(action: HeaderAction) -> list[bytes]:
    """envoy.config.common.mutation_rules.v3.HeaderMutation, if the action changes anything."""
    match action.action:
        case MismatchAction.DELETE:
            return [text(1, action.name)]
        case MismatchAction.ADD | MismatchAction.REPLACE:
            # The value is a format string to Envoy, in which a lone % would begin a command.
            value = text(1, action.name) + text(2, (action.value or "").replace("%", "%%"))
            how = _APPEND if action.action is MismatchAction.ADD else _OVERWRITE
            return [frame(2, frame(1, value) + number(3, how) + _KEEP_EMPTY)]
    return []


def _metadata(logged: Sequence[str]) -> bytes:
    """envoy.extensions.filters.http.set_metadata.v3.Metadata: a list, to which the other direction's is appended."""
    values = b"".join(frame(1, text(3, each)) for each in logged)
    entry = text(1, LOGGED_KEY) + frame(2, frame(6, values))
    return text(1, LOGGED_NAMESPACE) + number(2, 1) + frame(3, frame(1, entry))
