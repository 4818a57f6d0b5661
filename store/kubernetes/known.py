"""What is known of one collection: a state machine of lists and events. No I/O.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .resource import Object, Resource

GONE = 410
_BURIED = 1000
_TROUBLE = (KeyError, TypeError, AttributeError, ValueError)


class ExpiredError(Exception):
    """The server does not remember what came after the version that was asked for: list anew."""


class RefusedError(Exception):
    """The server ended the watch with an error."""


@dataclass(slots=True)
class Known:
    """The objects of a collection. `version` is where a watch goes on; None before the first list. `changes` counts
    what was different."""

    resource: Resource
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: str | None = None
    changes: int = 0
    _versions: dict[str, str] = field(default_factory=dict)

    def replace(self, items: Iterable[Object], version: str) -> bool:
        """A whole list came; True when anything is different. An object that did not change stays the same one."""
        found: dict[str, dict[str, Any]] = {}
        versions: dict[str, str] = {}
        for item in items:
            key, essence = self.resource.told(item)
            before = self.objects.get(key)
            found[key] = before if before is not None and before == essence else essence
            versions[key] = _version(item)
        changed = found != self.objects
        self.changes += changed
        self.objects, self._versions, self.version = found, versions, version
        return changed

    def apply(self, event: Mapping[str, Any]) -> bool:
        """An event of a watch; True when anything is different. News that are older than what is known are none.

        Raises ExpiredError, RefusedError, and ValueError for what is no event.
        """
        try:
            kind, told = event["type"], event["object"]
            if kind == "ERROR":
                code, message = int(told.get("code") or 0), str(told.get("message") or "no reason given")
                raise ExpiredError(message) if code == GONE else RefusedError(f"{code} {message}")
            version = _version(told)
            if kind == "BOOKMARK":
                self._goes_on_at(version)
                return False
            if kind not in ("ADDED", "MODIFIED", "DELETED"):
                raise ValueError(f"unknown type of event {kind}")
            key, essence = self.resource.told(told)
        except _TROUBLE as error:
            raise ValueError(f"not an event: {error or type(error).__name__}") from error
        if _older(version, self._versions.get(key, "")):
            return False
        self._goes_on_at(version)
        if kind == "DELETED":
            self._bury(key, version)
            changed = self.objects.pop(key, None) is not None
            self.changes += changed
            return changed
        self._versions[key] = version
        if self.objects.get(key) == essence:
            return False
        self.objects[key] = essence
        self.changes += 1
        return True

    def version_of(self, key: str) -> str:
        """The version in which an object is known; empty when it is not."""
        return self._versions.get(key, "")

    def forget_version(self) -> None:
        """What is known stays, and the next look is a list."""
        self.version = None

    def is_ahead_of(self, version: str) -> bool:
        """True when the collection is at an earlier version now than the one that is known: the server was set back to
        an older state. A watch would then be silent until there are as many changes again."""
        return _older(version, self.version or "")

    def _bury(self, key: str, version: str) -> None:
        """The version is kept, so that older news do not bring the object back. Of very many it is not."""
        self._versions[key] = version
        if len(self._versions) > 2 * len(self.objects) + _BURIED:
            self._versions = {key: version for key, version in self._versions.items() if key in self.objects}

    def _goes_on_at(self, version: str) -> None:
        if version and not _older(version, self.version or ""):
            self.version = version


def _version(told: Object) -> str:
    return str((told.get("metadata") or {}).get("resourceVersion") or "")


def _older(one: str, other: str) -> bool:
    """Versions of one collection are numbers that grow wherever they can be told apart
    (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions); others are taken as they come."""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)
