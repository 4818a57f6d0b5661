"""Asks Envoy what is in force, after every change and at intervals, and sends again what it has lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...envoy.errors import AdminError
from ...envoy.inspection.admin import Admin, TlsDoor
from ...envoy.inspection.certificates import serial_of, serials_in_use
from ...envoy.inspection.in_force import InForce, named_query, read_versions, versions_query
from ...xds import LISTENER, SECRET, XdsServer
from .effect import Drift, Name, confirmed, drifted

log = logging.getLogger("lockgate.agent")

INTERVAL = 10.0  # seconds between two looks at everything, which costs Envoy 20 ms with ten thousand rules
_PATIENCE = 0.05  # seconds until the first look is repeated after a change: Envoy's workers take it over after its ACK
_LONGEST_PATIENCE = 1.0
_UNUSED = "it uses none of its certificates, as when it has refused them; make others"


@dataclass(slots=True)
class Effect:
    """What the last look found; `looks` and `repaired` (resources that were sent again) count since the agent began."""

    looks: int = 0
    drifts: tuple[Drift, ...] = ()
    repaired: int = 0
    in_force: dict[Name, InForce] = field(default_factory=dict)
    at: float = 0.0  # Unix time; 0 is never
    failure: str = ""  # why it could not be asked the last time


class EffectWatch:
    """The watch over one node's Envoy, which asks for its configuration under the name `node`."""

    def __init__(
        self,
        xds: XdsServer,
        node: str,
        socket: Path | TlsDoor,
        effective: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`effective` is told how many seconds each change took from its beginning until Envoy had it in force."""
        self._xds = xds
        self._node = node
        self._name = "" if isinstance(socket, Path) else node  # in sentences
        self._socket = socket
        self._effective = effective
        self._asked = asyncio.Event()
        self._began: float | None = None  # when the oldest change began that has not been seen in force yet
        self._looked: float | None = None  # when everything was looked at last
        self.effect = Effect()

    def changed(self, began: float) -> None:
        """A change that began at this monotonic time was acknowledged."""
        self._began = began if self._began is None else min(self._began, began)
        self._asked.set()

    async def run(self) -> None:
        """For as long as the agent lives."""
        async with Admin(self._socket, timeout=5.0) as admin:
            patience: float | None = None
            while True:
                try:
                    async with asyncio.timeout(patience or INTERVAL):
                        await self._asked.wait()
                except TimeoutError:
                    pass
                else:
                    patience = None
                self._asked.clear()
                now = time.monotonic()
                everything = self._looked is None or now - self._looked >= INTERVAL
                try:
                    drifts = await self.look(admin, everything=everything)
                except AdminError as error:
                    self._fail(str(error))
                    patience = None
                    continue
                self.effect.failure = ""
                if everything:
                    self._looked = now
                if not drifts or patience == _LONGEST_PATIENCE:
                    self._conclude(drifts)
                    patience = None
                else:
                    patience = min(2 * patience, _LONGEST_PATIENCE) if patience else _PATIENCE

    async def look(self, admin: Admin, *, everything: bool = True) -> tuple[Drift, ...]:
        """Compares once: everything, or what has not been seen in force as it was confirmed. Raises AdminError."""
        before = self._confirmed()
        known = {} if everything else self.effect.in_force
        actual = {resource: version for resource, version in known.items() if before.get(resource) == version.version}
        asked = []
        for type_url in sorted({resource.type_url for resource in before}):
            names = {each.name for each in before if each.type_url == type_url and each not in actual}
            found = await self._versions(admin, type_url.rpartition(".")[2], names, everything=everything)
            if found is not None and type_url == LISTENER:
                found = {name: _there(each, before.get(Name(type_url, name))) for name, each in found.items()}
            if found is not None and type_url == SECRET and not self._name:
                unused = await self._unused(admin, before)
                found |= {name: InForce(None, _UNUSED) for name in unused}
            if found is not None:
                actual |= {Name(type_url, name): version for name, version in found.items()}
                asked.append(type_url)
        # What was confirmed while we asked may or may not have been in force when the dump was made.
        after = self._confirmed()
        settled = {resource: version for resource, version in before.items() if after.get(resource) == version}
        effect = self.effect
        effect.looks += 1
        effect.in_force, effect.at = actual, time.time()
        return drifted(settled, actual, asked, self._name)

    def _fail(self, failure: str) -> None:
        """Envoy was not asked: on this node it is starting, or gone, and others tell of that."""
        effect = self.effect
        if failure != effect.failure:
            level = logging.WARNING if self._name else logging.DEBUG
            log.log(
                level, "Envoy%s was not asked what it has in force: %s", f" of {self._name}" * bool(self._name), failure
            )
        effect.failure = failure
        if self._name:
            effect.in_force = {}

    async def _versions(
        self, admin: Admin, kind: str, names: set[str], *, everything: bool
    ) -> dict[str, InForce] | None:
        """Of all of a kind, or of `names` alone; None when they cannot be told."""
        query = versions_query(kind)
        if query is None:
            return None
        if not names and not everything:
            return {}
        pattern = "" if everything else named_query(names)
        found = read_versions(await admin.config_dump(resource=query[0], mask=query[1], name=pattern))
        if kind == "TypedExtensionConfig" and (missing := names - found.keys()):
            found |= read_versions(await admin.config_dump(name=named_query(missing), mask=query[0]))
        return found

    async def _unused(self, admin: Admin, confirmed: Mapping[Name, str]) -> list[str]:
        """The secrets of which Envoy shows no certificate. A remote Envoy's admin interface is not asked so much."""
        offered = self._xds.offered(SECRET)
        serials = {
            name: serial
            for name, each in offered.items()
            if confirmed.get(Name(SECRET, name)) == each.version and (serial := serial_of(each.body)) is not None
        }
        if not serials:
            return []
        in_use = serials_in_use(await admin.certs())
        return [name for name, serial in serials.items() if serial not in in_use]

    def _conclude(self, drifts: tuple[Drift, ...]) -> None:
        effect = self.effect
        for drift in drifts:
            if drift not in effect.drifts:
                log.error("%s", drift)
            self._xds.send_again(self._node, drift.resource.type_url, (drift.resource.name,))
        effect.repaired += len(drifts)
        effect.drifts = drifts
        if not drifts and self._began is not None and not self._asked.is_set():
            began, self._began = self._began, None
            self._effective(time.monotonic() - began)

    def _confirmed(self) -> dict[Name, str]:
        found: dict[Name, str] = {}
        for client in self._xds.status().clients:
            if client.node == self._node:
                found |= confirmed(client)
        return found


def _there(listener: InForce, confirmed: str | None) -> InForce:
    """Of listeners only their presence is compared (see in_force.py)."""
    return replace(listener, version=confirmed) if listener.version is not None and confirmed is not None else listener
