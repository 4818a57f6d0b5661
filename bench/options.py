"""The options that benches share: how much to measure, --quick, and where the result goes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .workplace import RESULTS, positive


@dataclass(frozen=True, slots=True)
class Amount:
    """An option `--NAME NUMBER` and what it is when nobody gives it, in a whole run and in a quick one."""

    name: str
    meaning: str
    whole: int
    quick: int


class Options:
    """The command line of a bench. What else it takes is added to `parser`."""

    def __init__(self, bench: str, about: str | None, *amounts: Amount) -> None:
        """`bench` as in bench/NAME; of `about` the first paragraph is shown."""
        self._amounts = amounts
        self.parser = argparse.ArgumentParser(prog=f"bench/{bench}", description=about and about.split("\n\n")[0])
        for each in amounts:
            self.parser.add_argument(
                f"--{each.name}", type=positive, help=f"{each.meaning} ({each.whole}; with --quick {each.quick})"
            )
        self.parser.add_argument(
            "--quick", action="store_true", help="a short run that shows that all works; writes no result"
        )
        self.parser.add_argument(
            "--output", type=Path, help=f"folder for {bench}.md and .json (bench/results; with --quick none)"
        )

    def parse(
        self, argv: Sequence[str] | None, whole: Callable[[argparse.Namespace], bool] = lambda _: True
    ) -> argparse.Namespace:
        """What was given, completed. `output` stays None where nothing is to be written: after a quick run, and after
        one that is not `whole`. Exits with 2 as argparse does."""
        given = self.parser.parse_args(argv)
        for each in self._amounts:
            if getattr(given, each.name) is None:
                setattr(given, each.name, each.quick if given.quick else each.whole)
        if given.output is None and not given.quick and whole(given):
            given.output = RESULTS
        return given
