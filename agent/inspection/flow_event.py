"""Requests that Envoy refused or noted, as `lockgate flows` shows them. Pure.

Envoy's access log has addresses and the name of what decided; here they become workloads, policies and rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...envoy.config.access_log import GREETING, NO_ROUTES, LoggedRequest
from ...policies import Direction
from ...xds import UNKNOWN_SUBJECT, names_a_rule
from .flow_end import Directory, FlowEnd, FlowVerdict


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One request. `policy` and `rule` are what decided; for a denial because nothing allowed it they are empty, and
    `considered` names the rules about this peer and port that did not match."""

    time: datetime
    verdict: FlowVerdict
    source: FlowEnd
    destination: FlowEnd
    method: str
    path: str
    host: str
    protocol: str
    code: int
    policy: str
    rule: str
    considered: tuple[str, ...]
    why: str
    mismatches: tuple[tuple[str, str], ...] = ()  # (rule, header)
    grpc: str = ""

    def to_json(self) -> dict[str, Any]:
        """One line of `-o json`."""
        request = {"method": self.method, "path": self.path, "host": self.host, "protocol": self.protocol}
        return {
            "time": self.time.isoformat(),
            "verdict": str(self.verdict),
            "source": self.source.to_json(),
            "destination": self.destination.to_json(),
            "http": {**request, "code": self.code} | ({"grpc": self.grpc} if self.grpc else {}),
            "policy": self.policy,
            "rule": self.rule,
            "considered": list(self.considered),
            "mismatches": [{"rule": rule, "header": header} for rule, header in self.mismatches],
            "why": self.why,
        }

    def __str__(self) -> str:
        request = f"{self.method} {self.path}" if self.protocol != "TLS" else f"TLS {self.host or 'without a name'}"
        return (
            f"{self.time:%H:%M:%S.%f}"[:12]
            + f"  {self.verdict:<7}  {self.source} -> {self.destination}  {request}  {self.code or '-'}  {self.why}"
        )


def flow_event(request: LoggedRequest, directory: Directory) -> FlowEvent:
    """One line of Envoy's access log in the terms of policies."""
    source, destination = directory.end(request.source, request.source_identity), directory.end(request.destination)
    policy, rule, considered, why = _decided(request.rule, source, destination)
    mismatches = tuple((name, header) for name, _, header in (each.rpartition(" ") for each in request.mismatches))
    denied = bool(request.rule) or not mismatches
    if not denied:
        rules = ", ".join(f"{header} ({name})" for name, header in mismatches)
        policy, rule, considered, why = "", "", (), f"passed with a mismatch of {rules}"
    return FlowEvent(
        request.time,
        FlowVerdict.DENIED if denied else FlowVerdict.LOGGED,
        source,
        destination,
        request.method or "",
        request.path or "",
        request.host or "",
        request.protocol,
        request.code,
        policy,
        rule,
        considered,
        why,
        mismatches,
        request.grpc_method,
    )


_GREETINGS = {
    "another-server-name": "the client greeted the server again, by another name",
    "renegotiation": "the client greeted the server again where nobody can see by which name (renegotiation)",
    "unasked": "the client greeted again before the server asked for it",
    "unreadable": "the greeting is not what TLS says it must be",
}


def _decided(name: str, source: FlowEnd, destination: FlowEnd) -> tuple[str, str, tuple[str, ...], str]:
    """(policy, rule, rules considered, in words) of what an action's name says; see xds/compile/rule_name.py."""
    if not name:
        return "", "", (), "refused, and Envoy did not say by what"
    kind, _, rest = name.partition(":")
    if kind == "no-rule-matched":
        considered = tuple(rest.split(","))
        return "", "", considered, f"no request rule of {', '.join(considered)} matches"
    if kind == "identity":
        number, direction, _ = rest.split(":", 2)
        who = (source if direction == Direction.EGRESS else destination).endpoint or f"identity {number}"
        return "", "", (), f"no {direction} rule of {who} is about this peer and port"
    if name == UNKNOWN_SUBJECT:
        return "", "", (), "Envoy has not been told yet who an end of this node is"
    if name == NO_ROUTES:
        return "", "", (), "no routes have reached Envoy yet"
    if name.startswith(GREETING):
        return "", "", (), _GREETINGS.get(name.removeprefix(GREETING), name)
    if kind == "lockgate":
        return "", "", (), "no policy has reached Envoy yet"
    if not names_a_rule(name):
        return "", "", (), name
    return kind, rest, (), f"denied by {name}"
