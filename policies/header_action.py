"""What header matches do to a request that is not as they ask (CiliumNetworkPolicy, `headerMatches[].mismatch`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .endpoint_policy import HeaderMatch, MismatchAction

# What frames a message or stands for a part of it: the proxy writes these itself, and a request that was judged by its
# host must not leave for another one. X-Forwarded-Proto is among what Envoy writes itself.
# https://www.rfc-editor.org/rfc/rfc9110#name-message-forwarding
UNCHANGEABLE = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "proxy-connection", "keep-alive"),
        *("te", "trailer", "upgrade", "http2-settings", "x-forwarded-proto"),
    }
)


@dataclass(frozen=True, slots=True)
class HeaderAction:
    """One change (or, for LOG, a note). `value` None asked for presence: the header is then added empty."""

    action: MismatchAction
    name: str
    value: str | None
    secret: bool = False

    @property
    def shown(self) -> str | None:
        """The value as it may be shown: None for a secret's."""
        return None if self.secret else self.value

    def __str__(self) -> str:
        """REPLACE x-role with 'guest'; a secret's value is not in it."""
        if self.action in (MismatchAction.LOG, MismatchAction.DELETE) or (self.value is None and not self.secret):
            return f"{self.action} {self.name}"
        what = "the value of its secret" if self.secret else f"'{self.value}'"
        return f"{self.action} {self.name} with {what}"

    def __repr__(self) -> str:
        return f"HeaderAction({self})"


def action_on(header: HeaderMatch, found: str | None) -> HeaderAction | None:
    """What a header match that does not hold does, `found` being the header's value; None when there is nothing to do:
    it denies, or it would delete what is not there."""
    if header.mismatch is MismatchAction.DENY or (header.mismatch is MismatchAction.DELETE and found is None):
        return None
    return HeaderAction(header.mismatch, header.name, header.value, header.secret)


def change(headers: Mapping[str, str], actions: Iterable[HeaderAction]) -> dict[str, str]:
    """The headers after the actions, in their order. Repeated headers are joined with ","."""
    changed = dict(headers)
    for action in actions:
        value = action.value or ""
        match action.action:
            case MismatchAction.REPLACE:
                changed[action.name] = value
            case MismatchAction.ADD:
                changed[action.name] = f"{changed[action.name]},{value}" if action.name in changed else value
            case MismatchAction.DELETE:
                changed.pop(action.name, None)
    return changed
