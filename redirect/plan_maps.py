"""The maps that hold the plan, and the revision by which what was judged before a change is judged again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..policies.endpoint_policy import EndpointPolicy
from . import layout
from .ipcache_map import IpcacheMap
from .kernel.maps import PinnedMap
from .layout import Config
from .map_changes import MapChanges, Table
from .plan import DatapathPlan
from .room import Need, is_ample, need

_CONFIG_KEY = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """Map entries written and deleted by one `apply`, the revision that counts from now on, and how many live TCP
    connections are over because of it."""

    written: int
    deleted: int
    revision: int
    revoked: int = 0


class PlanMaps:
    """Those in one folder; `reset_port` goes into the config with each change. One writer at a time."""

    def __init__(self, folder: Path, reset_port: int) -> None:
        self._reset_port = reset_port
        self._policy = PinnedMap(folder, layout.POLICY)
        self._endpoints = PinnedMap(folder, layout.ENDPOINTS)
        self.ipcache = IpcacheMap(folder)
        self._maps: Mapping[Table, PinnedMap[Any, Any]] = {
            Table.POLICY: self._policy,
            Table.ENDPOINTS: self._endpoints,
            Table.IPCACHE: self.ipcache,
        }
        self._config = PinnedMap(folder, layout.CONFIG)
        self._current: DatapathPlan | None = None  # None: read them first
        self._writing_config = threading.Lock()
        self._unfinished = True  # a revision may be owed for changes of an earlier agent or a failed change

    @property
    def current(self) -> DatapathPlan:
        """What the maps hold."""
        if self._current is None:
            self._current = DatapathPlan(self._policy.read(), self._endpoints.read(), self.ipcache.read())
        return self._current

    @property
    def room(self) -> Mapping[Table, int]:
        """How many entries each map can hold."""
        return {table: opened.room for table, opened in self._maps.items()}

    def need(self, wanted: DatapathPlan) -> Need:
        """What it would take to come to hold it."""
        return need(self.current, wanted, self.room)

    def has_ample_room(self, policies: Sequence[EndpointPolicy], addresses: int) -> bool:
        """True where endpoints with these policies, and so many addresses, have room without being counted."""
        return is_ample(self.current, policies, addresses, self.room)

    def has_endpoints(self) -> bool:
        """False when no endpoint has a policy in the kernel, as before the first plan."""
        return bool(self._endpoints.read())

    def change(self, changes: MapChanges, wanted: DatapathPlan) -> Applied:
        """Write `changes`, which lead to `wanted`, in their order, then a revision that has live connections judged
        anew. Nothing of what the maps have no room for: MapFullError.
        """
        for table, entries in changes.most(self.current).items():
            self._maps[table].require(entries)
        revision = self._config.read()[_CONFIG_KEY].revision
        if len(changes) or self._unfinished:
            self._current, self._unfinished = None, True
            for write in changes.writes():
                self._maps[write.table].put(write.delta.put)
                self._maps[write.table].remove(write.delta.gone)
            revision = revision % 0xFFFFFFFF + 1
            with self._writing_config:
                asks_makers = self._config.read()[_CONFIG_KEY].asks_makers
                self._config.put({_CONFIG_KEY: Config(revision, self._reset_port, asks_makers)})
        self._current, self._unfinished = wanted, False
        parts = (changes.policy, changes.endpoints, changes.ipcache)
        return Applied(sum(len(part.put) for part in parts), sum(len(part.gone) for part in parts), revision)

    def envoy_asks_makers(self) -> None:
        """As `Datapath.envoy_asks_makers`. From any thread."""
        with self._writing_config:
            config = self._config.read()[_CONFIG_KEY]
            if not config.asks_makers:
                self._config.put({_CONFIG_KEY: config._replace(asks_makers=True)})

    def close(self) -> None:
        """Forget their descriptors."""
        for opened in (self._policy, self._endpoints, self.ipcache, self._config):
            opened.close()
