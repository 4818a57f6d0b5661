"""Envoy's generated messages as dataclasses of the standard library, instead of pydantic's, and without a gRPC client.

Pydantic would make a validator for each of six hundred messages when they are imported, and have it look at every
message when it is made and again when it is encoded. Ours are checked by mypy before and by Envoy after, and an agent
that starts has no second for that; nor a fifth of one for importing pydantic and grpclib, of which nothing is used.
betterproto2 generates and takes both kinds.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any


@contextmanager
def plain_dataclasses() -> Iterator[None]:
    """What is imported meanwhile gets the standard library's dataclasses where it asks for pydantic's."""
    with _instead({"pydantic": None}):
        import betterproto2  # it can do without
    # It reads the type hints of a whole message again for each of its fields.
    hints = cache(betterproto2.Message._type_hints.__func__)  # type: ignore[attr-defined]
    betterproto2.Message._type_hints = classmethod(hints)  # type: ignore[method-assign,assignment,arg-type]
    dataclass_module = ModuleType("pydantic.dataclasses")
    dataclass_module.__dict__.update(dataclass=_dataclass, rebuild_dataclass=_rebuild)
    unused = {name: _Unused(name) for name in ("pydantic", "grpclib", "betterproto2.grpclib")}
    with _instead({"pydantic.dataclasses": dataclass_module, **unused}):
        yield


class _Unused(ModuleType):
    """A package of which the generated code names what we never use: validators of fields, clients and servers."""

    def __getattr__(self, name: str) -> type[_Nothing]:
        return _Nothing


class _Nothing:
    """Whatever that is: something to derive from, to make, or to decorate with."""

    def __init__(self, *_: object, **__: object) -> None:
        """It has no use for them."""

    def __call__(self, decorated: object) -> object:
        return decorated


@contextmanager
def _instead(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Importing these gives what is said here (None: they are not there), until the end."""
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)  # type: ignore[arg-type]  # None is allowed by the language reference, 5.3.1
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)


def _dataclass(*, config: Mapping[str, Any], **options: bool) -> Callable[[type], type]:
    """`config` is pydantic's own; an unknown field is a TypeError in both."""
    return dataclasses.dataclass(**options)


def _rebuild(message: type) -> None:
    """There is nothing to build."""
