"""Services as the workloads file lists them, for toServices."""

from __future__ import annotations

from dataclasses import dataclass

from .workload import IPAddress


@dataclass(frozen=True, slots=True)
class Service:
    """A service: the workloads of its namespace that `selector` selects, and the addresses outside in `ips`.

    `labels` and `selector` are sorted (key, value) pairs; an empty selector selects nobody.
    """

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    selector: tuple[tuple[str, str], ...] = ()
    ips: tuple[IPAddress, ...] = ()
    source: str = ""
    line: int = 0

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"
