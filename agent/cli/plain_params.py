"""Options that are texts, paths, flags or one of a few words need no pydantic, with which typer would look at them.

Importing it takes a fifth of a second: a good part of what an agent needs until its programs are in the kernel, and of
what most commands need at all.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import typer.core
from typer._click.exceptions import BadParameter
from typer._coercion import RuntimeParam, TypeDescriptor, build_runtime_param
from typer._param_types import coerce_cli_path

_LOOKED_AT_BY_TYPER = ("parser", "resolve_path", "path_type")  # where one of these is asked for


class _PlainParam(RuntimeParam):
    """What typer makes of a value anyway (typer._adapters), without its way to it."""

    def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
        if self.annotation is Path:
            return coerce_cli_path(Path(value), self.parameter_info, path_type=Path, param=param, ctx=ctx)
        if isinstance(value, self.annotation):
            return value
        if issubclass(self.annotation, StrEnum):
            try:
                return self.annotation(value)
            except ValueError:
                raise BadParameter(
                    f"{value!r} is not one of {', '.join(self.annotation)}.", ctx=ctx, param=param
                ) from None
        return build_runtime_param(param.type_descriptor)._coerce_value(value, param, ctx)


def _build(descriptor: TypeDescriptor) -> RuntimeParam:
    info = descriptor.parameter_info
    plain = isinstance(descriptor.annotation, type) and issubclass(descriptor.annotation, str | Path | bool)
    if plain and not any(getattr(info, each) for each in _LOOKED_AT_BY_TYPER):
        return _PlainParam(info, descriptor.annotation)
    return build_runtime_param(descriptor)


def plain_params() -> None:
    """From now on, for every command."""
    typer.core.build_runtime_param = _build  # type: ignore[attr-defined]
