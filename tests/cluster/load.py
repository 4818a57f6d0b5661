"""What is asked of a policed server in a cluster while something happens to the node."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, fetch
from lockgate.tests.e2e.load import PATIENCE, Kept, Load

ALLOWED = "200 yes"


class ClusterLoad(Load):
    """`frontend` asks `server` for what it may and what it may not have, on new connections and on one that it keeps,
    and `intruder`, which may ask for nothing, asks too."""

    expected: ClassVar = {
        "new": {ALLOWED},
        "kept": {ALLOWED},
        "denied": {DENIED},
        "kept, denied": {DENIED},
        "intruder": {DROPPED},
    }

    def __init__(self, frontend: Any, intruder: Any, server: str) -> None:
        def once(client: Any, path: str, patience: float) -> Callable[[], str]:
            return lambda: fetch(client, server, 80, path, patience=patience)

        self._kept = Kept(frontend, server, "/open"), Kept(frontend, server, "/shut")
        allowed, denied = self._kept
        super().__init__(
            {
                "new": once(frontend, "/open", PATIENCE),
                "kept": allowed.ask,
                "denied": once(frontend, "/shut", PATIENCE),
                "kept, denied": denied.ask,
                "intruder": once(intruder, "/open", GLANCE),
            }
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for kept in self._kept:
            kept.close()
