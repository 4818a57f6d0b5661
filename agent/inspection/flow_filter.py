"""Which of the events that `lockgate flows` knows of are wanted. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from .drop_event import DropEvent
from .flow_end import FlowEnd, FlowVerdict
from .flow_event import FlowEvent


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which events are wanted. Ends are namespace/name, name, an address, a prefix or reserved:name; `path` is a
    regular expression found anywhere in the path."""

    verdict: FlowVerdict | None = None
    source: str = ""
    destination: str = ""
    path: str = ""
    method: str = ""
    policy: str = ""

    def wants(self, event: FlowEvent | DropEvent) -> bool:
        """True when the event passes every condition; a dropped packet has no request."""
        if isinstance(event, DropEvent):
            return (
                self.verdict in (None, FlowVerdict.DROPPED)
                and not (self.path or self.method)
                and (not self.policy or self._named((event.blame.policy, *event.blame.considered)))
                and _is_end(event.source, self.source)
                and _is_end(event.destination, self.destination)
            )
        return (
            (self.verdict is None or event.verdict is self.verdict)
            and _is_end(event.source, self.source)
            and _is_end(event.destination, self.destination)
            and (not self.path or re.search(self.path, event.path) is not None)
            and (not self.method or event.method == self.method)
            and (not self.policy or self._is_about(event))
        )

    def _is_about(self, event: FlowEvent) -> bool:
        names = (f"{event.policy}:", *event.considered, *(rule for rule, _ in event.mismatches))
        return self._named(name.partition(":")[0] for name in names)

    def _named(self, names: Iterable[str]) -> bool:
        policies = set(names)
        return self.policy in policies or any(name.rpartition("/")[2] == self.policy for name in policies)


def _is_end(end: FlowEnd, wanted: str) -> bool:
    if not wanted or wanted in (end.endpoint, end.ip) or wanted in end.labels:
        return True
    if end.endpoint and end.endpoint.rpartition("/")[2] == wanted:
        return True
    if "/" in wanted:
        try:
            network = ip_network(wanted)
        except ValueError:
            return False
        return ip_network(end.ip).subnet_of(network) if _version(end.ip) == network.version else False  # type: ignore[arg-type]
    return False


def _version(ip: str) -> int:
    return 6 if ":" in ip else 4
