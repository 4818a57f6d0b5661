"""A connection that a proxy carries, when another identity has come to one of its ends: may it go on?

A proxy asks once who is at the ends, when a connection is made, and judges by that as long as it lives. So the rules
about the identities that it was made with go on to count, and it may only live on while they say what the rules about
those that are there now would say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .endpoint_policy import (
    Direction,
    DirectionPolicy,
    HttpRules,
    L7Rules,
    MismatchAction,
    Protocol,
    ResolvedRule,
    TlsRules,
)
from .identity import CIDR_IDENTITIES, Reserved
from .proxy_kind import clash
from .workload import Endpoint, IPAddress
from .world import World

Ends: TypeAlias = tuple[int, int]  # the identities of client and server

_WORLD = frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6})
_UNCHANGING = frozenset({MismatchAction.DENY, MismatchAction.LOG})


def in_other_hands(made: Ends, now: Ends) -> bool:
    """True when an end is another workload or host now, or none any more, and not just an address outside of which
    other policies, prefixes or names speak."""
    return any(
        was != is_now and not (_outside(was) and _outside(is_now)) for was, is_now in zip(made, now, strict=True)
    )


def _outside(identity: int) -> bool:
    return identity in CIDR_IDENTITIES or identity in _WORLD


class ChangedEnds:
    """What two worlds say, the one that was in force (None: not known) and the one that is."""

    def __init__(self, before: World | None, after: World) -> None:
        self._before = before
        self._after = after
        self._local_before = _local(before) if before is not None else {}
        self._local = _local(after)

    def goes_on(self, made: Ends, now: Ends, client: IPAddress, server: IPAddress, port: int) -> bool:
        """Whether a connection that was made with the identities `made` may go on although its ends have others `now`.

        Nothing that it lets pass may be refused now, or changed in another way, and nothing that it let pass before and
        that is still allowed may be refused by it.
        """
        if made == now:
            return True
        if in_other_hands(made, now):
            return False
        return self._says_the_same(Direction.EGRESS, client, made[1], now[1], port) and self._says_the_same(
            Direction.INGRESS, server, made[0], now[0], port
        )

    def _says_the_same(self, direction: Direction, subject: IPAddress, was: int, is_now: int, port: int) -> bool:
        endpoint = self._local.get(subject)
        if was == is_now or endpoint is None:
            return True
        half = self._after.policy_of(endpoint).direction(direction)
        covering = _covering(half, is_now, port)
        if any(rule.deny for rule in covering) or clash(covering, Protocol.TCP):
            return False
        has, left = _said(covering), _said(_covering(half, was, port))
        if not left <= has or any(_changes(said) for said in has - left):
            return False
        earlier = self._local_before.get(subject)
        if self._before is None or earlier is None:
            return bool(left) or not has  # or it would be of no use any more
        had = _said(_covering(self._before.policy_of(earlier).direction(direction), was, port))
        return had & has <= left


@dataclass(frozen=True, slots=True)
class _Said:
    """What a rule says to those whom it is about. The same from two rules is the same."""

    deny: bool
    l7: L7Rules | None
    tls: TlsRules | None


def _local(world: World) -> dict[IPAddress, Endpoint]:
    return {ip: endpoint for endpoint in world.endpoints if endpoint.local for ip in endpoint.ips}


def _covering(half: DirectionPolicy, peer: int, port: int) -> list[ResolvedRule]:
    return [
        rule
        for rule in half.rules
        if (rule.peers is None or peer in rule.peers)
        and (rule.ports is None or any(span.holds(Protocol.TCP, port) for span in rule.ports))
    ]


def _said(rules: list[ResolvedRule]) -> frozenset[_Said]:
    return frozenset(_Said(rule.deny, rule.l7, rule.tls) for rule in rules)


def _changes(said: _Said) -> bool:
    """True when it has requests changed."""
    return isinstance(said.l7, HttpRules) and any(
        header.mismatch not in _UNCHANGING for http in said.l7.http for header in http.headers
    )
