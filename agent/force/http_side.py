"""What Envoy is told about HTTP: the policies of both directions, and the routes that spare a request those that have
nothing to say about it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from ...envoy.config.http_listener import HttpListener, http_routes
from ...envoy.config.http_routes import ROUTES
from ...policies.endpoint_policy import Direction, RuleOrigin
from ...xds import ROUTE, Enforced, NodeCompiler, Policed, Resource, Settled, Snapshot

_Spared: TypeAlias = Mapping[Direction, frozenset[int]]
_NOBODY: _Spared = MappingProxyType({direction: frozenset() for direction in Direction})
_log = logging.getLogger("lockgate.agent")


@dataclass(frozen=True, slots=True)
class HttpResources:
    """Everything about HTTP, and the rules that Envoy cannot carry out."""

    resources: tuple[Resource, ...]
    refused: Mapping[RuleOrigin, str]

    def snapshot(self) -> Snapshot:
        """The resources as what the server publishes."""
        return Snapshot.of(self.resources)


class HttpSide:
    """`resources` is a pure function of its arguments and of what was refused; else the object only remembers what is
    costly to make again."""

    def __init__(self, settings: HttpListener | None = None) -> None:
        self._settings = settings or HttpListener()
        self._compiler = NodeCompiler()
        self._routes = _NOBODY, self._made(_NOBODY)
        self._refused: tuple[_Spared, str] | None = None

    def resources(self, enforced: Enforced, policed: Policed) -> HttpResources:
        """The arguments are as for NodeCompiler.compile. In the routes are the identities of these endpoints that are
        not `policed`: who is, now or before a change that is on its way, is judged, and so is who is not known."""
        compiled = self._compiler.compile(enforced, policed)
        shards = (shard for of_direction in compiled.shards.values() for shard in of_direction)
        return HttpResources((*shards, self._route(compiled.unjudged)), compiled.refused)

    def gives_way(self, answer: Settled) -> bool:
        """True when Envoy refused the routes, for which no policy is to blame, and there is something to be made
        instead: until somebody else would be spared, nobody is."""
        text = dict(answer.errors).get((ROUTE, ROUTES))
        spared, _ = self._routes
        if text is None or not any(spared.values()):
            return False
        self._refused = spared, text
        _log.error("%s", self.problem)
        return True

    @property
    def problem(self) -> str:
        """A sentence while Envoy refuses the routes that it should have."""
        if self._refused is None:
            return ""
        return (
            f"Envoy refuses the routes that spare requests the policies of an end that has none ({ROUTES}: "
            f"{self._refused[1]}); they are looked up for every request meanwhile"
        )

    def _route(self, spared: _Spared) -> Resource:
        if self._refused is not None and self._refused[0] == spared:
            spared = _NOBODY
        else:
            self._refused = None
        if self._routes[0] != spared:
            self._routes = spared, self._made(spared)
        return self._routes[1]

    def _made(self, spared: _Spared) -> Resource:
        body = http_routes(self._settings, spared[Direction.EGRESS], spared[Direction.INGRESS])
        return Resource(ROUTE, ROUTES, body)
