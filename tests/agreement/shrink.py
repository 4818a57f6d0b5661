"""Making a case small: whatever can be left out of its documents is left out."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any

from lockgate.tests.agreement.case import Case, Setting

Fails = Callable[[Case], Awaitable[bool]]
Path = tuple[str | int, ...]

MOST_TRIES = 600


async def shrink(case: Case, fails: Fails) -> Case:
    """A case from which nothing can be taken without `fails` becoming false, unless the tries ran out before."""
    data: dict[str, Any] = {**asdict(case.setting), "flow": case.flow}
    tries = 0
    smaller = True
    while smaller:
        smaller = False
        # Whole policies first, then ever smaller parts; what follows a part that was taken is looked at again.
        for path in sorted(_parts(data), key=lambda path: (len(path), path[:1] != ("policies",))):
            candidate = _without(data, path)
            if candidate is None:
                continue
            tries += 1
            if tries > MOST_TRIES:
                return _case(data, case)
            if await fails(_case(candidate, case)):
                data, smaller = candidate, True
                break
    return _case(data, case)


def _case(data: dict[str, Any], like: Case) -> Case:
    setting = {name: value for name, value in data.items() if name != "flow"}
    return Case(Setting(**setting), data["flow"], like.note)


def _parts(data: Any, path: Path = ()) -> Iterator[Path]:
    """Where in the data something can be taken out."""
    if isinstance(data, dict):
        items: list[tuple[str | int, Any]] = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    else:
        return
    for key, value in items:
        if path:
            yield (*path, key)
        yield from _parts(value, (*path, key))


def _without(data: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """A copy without the part at `path`; None for parts that every case has."""
    if path[0] == "flow" and path[-1] in ("from", "to", "port", "protocol"):
        return None
    copied = copy.deepcopy(data)
    holder: Any = copied
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return copied
