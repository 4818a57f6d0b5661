"""A bench as a command: it measures, prints, writes the result and its method, and ends with a status that says how."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .errors import BenchError
from .workplace import interruptible


class Result(Protocol):
    """What a bench has measured."""

    def table(self) -> str: ...
    def markdown(self) -> str: ...
    def json(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Result)


def run(name: str, measure: Callable[[], R], output: Path | None, warning: Callable[[R], str] = lambda _: "") -> int:
    """Measures and reports; `output` is the folder for NAME.md and NAME.json.

    Returns 0 measured (whether or not an aim is reached), 1 could not be measured, 130 interrupted.
    """
    interruptible()
    try:
        result = measure()
    except BenchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; everything it made is removed", file=sys.stderr)
        return 130
    print(result.table())
    if told := warning(result):
        print(f"{name}: {told}", file=sys.stderr, flush=True)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{name}.md").write_text(result.markdown())
        (output / f"{name}.json").write_text(json.dumps(result.json(), indent=1) + "\n")
        print(f"{name}: written to {output}/{name}.md and .json", file=sys.stderr, flush=True)
    return 0
