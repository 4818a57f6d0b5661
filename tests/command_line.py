"""`lockgate ARGUMENTS` without a process of its own: half a second less for each call, and the same code."""

from __future__ import annotations

import io
import json
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from lockgate.agent.cli import run


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The standard output of `-o json`."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one line on standard error; fails when there is anything else."""
        line, end, rest = self.err.partition("\n")
        assert line.startswith("lockgate: "), self
        assert (end, rest) == ("\n", ""), self
        return line.removeprefix("lockgate: ")


def lockgate(*arguments: object, stdin: bytes = b"") -> Ended:
    """Runs the command to its end."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["lockgate", *map(str, arguments)]
    status: object = 0
    with ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", argv))
        stack.enter_context(patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            run()
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int | None)
    return Ended(status or 0, out.getvalue(), err.getvalue())
