"""Envoy's generated messages as dataclasses of the standard library, instead of pydantic's.

Pydantic would make a validator for each of six hundred messages when they are imported, and have it look at every
message when it is made and again when it is encoded. Ours are checked by mypy before and by Envoy after, and an agent
that starts has no second for that. betterproto2 generates and takes both kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import betterproto2
import pydantic.dataclasses


@contextmanager
def plain_dataclasses() -> Iterator[None]:
    """What is imported meanwhile gets the standard library's dataclasses where it asks for pydantic's."""
    # betterproto2 reads the type hints of a whole message again for each of its fields.
    hints = cache(betterproto2.Message._type_hints.__func__)  # type: ignore[attr-defined]
    betterproto2.Message._type_hints = classmethod(hints)  # type: ignore[method-assign,assignment,arg-type]
    before = pydantic.dataclasses.dataclass, pydantic.dataclasses.rebuild_dataclass
    pydantic.dataclasses.dataclass, pydantic.dataclasses.rebuild_dataclass = _dataclass, _rebuild  # type: ignore[assignment]
    try:
        yield
    finally:
        pydantic.dataclasses.dataclass, pydantic.dataclasses.rebuild_dataclass = before


def _dataclass(*, config: Mapping[str, Any], **options: bool) -> Callable[[type], type]:
    """`config` is pydantic's own; an unknown field is a TypeError in both."""
    return dataclasses.dataclass(**options)


def _rebuild(message: type) -> None:
    """There is nothing to build."""
