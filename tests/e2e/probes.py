"""Requests without a pause, of every kind, while something happens to the node: no answer may ever be wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, PATIENCE, REFUSED, Line, LiveNode, fetch

_PAUSE = 0.04  # seconds between two requests of a probe: the point is time, not load


class Probe(threading.Thread):
    """Asks again and again. `wrong` holds the answers that are not among `right`."""

    def __init__(self, name: str, ask: Callable[[], str], right: tuple[str, ...]) -> None:
        super().__init__(name=name, daemon=True)
        self._ask = ask
        self._right = right
        self._end = threading.Event()
        self.answers = 0
        self.wrong: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._end.wait(_PAUSE):
            answer = self._ask()
            self.answers += 1
            if answer not in self._right:
                self.wrong.append(f"{self.name}, answer {self.answers}: {answer}")

    def end(self) -> None:
        """Let the last request finish."""
        self._end.set()
        self.join(PATIENCE)


class Probes:
    """Over both families: L4 allowed and denied, L7 allowed and denied, on kept connections and on new ones.

    With `l7_may_fail`, requests that Envoy would judge may also come to nothing, but never to what is not right; they
    use new connections only.
    """

    def __init__(self, node: LiveNode, *, l7_may_fail: bool = False) -> None:
        self._node = node
        for web in node.webs.values():
            web.seen.clear()
        self._lines: list[Line] = []
        self.probes: list[Probe] = []
        for number, family in enumerate(("IPv4", "IPv6")):
            backend, api = node.backend.ips[number], node.api.ips[number]
            nothing = (DROPPED, CLOSED, REFUSED) if l7_may_fail else ()
            patience = GLANCE if l7_may_fail else PATIENCE
            self._keep(f"L4 {family}", backend, 8080, "/", OK)
            self._new(f"L4 {family}", backend, 8080, "/", (OK,), PATIENCE)
            self._new(f"L7 {family}", api, 80, "/api/v1/users", (OK, *nothing), patience)
            self._new(f"denied L7 {family}", api, 80, "/denied", (DENIED, *nothing), patience)
            if not l7_may_fail:
                self._keep(f"L7 {family}", api, 80, "/api/v1/users", OK)
                self._keep(f"denied L7 {family}", api, 80, "/denied", DENIED)
            for server, port in ((backend, 8080), (api, 80)):
                ask = self._asking(node.intruder, server, port, "/api/v1/users", GLANCE)
                self.probes.append(Probe(f"denied to {server}", ask, (DROPPED, *nothing)))

    def _keep(self, name: str, ip: object, port: int, path: str, right: str) -> None:
        line = Line(self._node.frontend, ip, port)
        self._lines.append(line)
        self.probes.append(Probe(f"{name} on a kept connection", lambda: str(line.ask(path)), (right,)))

    def _new(self, name: str, ip: object, port: int, path: str, right: tuple[str, ...], patience: float) -> None:
        self.probes.append(Probe(name, self._asking(self._node.frontend, ip, port, path, patience), right))

    @staticmethod
    def _asking(pod: object, ip: object, port: int, path: str, patience: float) -> Callable[[], str]:
        return lambda: fetch(pod, ip, port, path, patience=patience)  # type: ignore[arg-type]

    def more(self) -> None:
        """Waits until each probe has had answers to requests that were sent after this call."""
        before = [probe.answers for probe in self.probes]
        deadline = time.monotonic() + PATIENCE
        while any(probe.answers < answers + 2 for probe, answers in zip(self.probes, before, strict=True)):
            assert time.monotonic() < deadline, f"a probe hangs\n{self._node.evidence()}"
            time.sleep(0.01)

    def __enter__(self) -> Probes:
        self.more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.more()
        for probe in self.probes:
            probe.end()
        for line in self._lines:
            line.__exit__(None, None, None)
        if error is None:
            wrong = [answer for probe in self.probes for answer in probe.wrong]
            assert not wrong, f"{len(wrong)} wrong answers: {wrong[:10]}\n{self._node.evidence()}"
            node = self._node
            for web in node.webs.values():
                assert web.clients() <= {str(ip) for ip in node.frontend.ips}
            assert {each.path for each in node.webs["api-server"].seen} <= {"/api/v1/users"}
