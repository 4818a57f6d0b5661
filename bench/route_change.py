"""Policies that change at random under full load: what every version allows never fails, what none allows never passes.

Started by the script `bench/route-change`, which installs what is missing. Exit status: 0 nothing of the kind happened,
1 something did or it could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lockgate.envoy.running.binary import find_binary

from . import command
from .churn_node import ChurnNode
from .errors import LoadError, StartError
from .machine import Machine, machine
from .policy_set import PolicyFile, endpoint_name, http_policy
from .probe import ALLOWED, HttpFlow, await_answer, until
from .route_load import RECORD
from .route_versions import CLIENT, FILES, PORT, Changes, Kind, Request, Tally, Timeline, marker_of, policy
from .table import table
from .workplace import RESULTS, compiled_origin, positive, prefix, uninterrupted, workplace

_WAIT = 60.0  # seconds until a change must show
_GRACE = 0.5  # seconds that an Envoy's worker may be behind another
_LAG = 2.0  # seconds that a request waits for its judgement, so that all that concerns it is known
_CONNECTIONS = 16
_METHOD = """\
* One node as users run it (`lockgate agent run`, its Envoy, the eBPF programs), a client's pod and a server's. Two
  policies allow the client a set of 48 paths: exact ones, regexes and prefixes. They are changed at random without
  end: paths come and go, a rule moves from one policy to the other (added there first), a policy is written again as
  it was, a policy of other pods comes or goes. Every fifth time three such changes are written at once.
* A version is possible from just before its file is renamed into place until a later one was seen in force by a path
  that only that one allows, and {grace:g} s longer. A request is judged by all versions that were possible between
  its beginning and its end.
* Load: {connections} kept connections in the client's pod, each asking for one path after the other without a pause;
  nothing is tried twice. A failure is anything but 200 for what every possible version allows; a passage is a 200 for
  what none allows. What is neither 200 nor 403 is counted for all others too.
* `in force` is the time from the renaming to the first answer by the new version, under this load.
"""


@dataclass(frozen=True, slots=True)
class RouteReport:
    """One run."""

    machine: Machine
    seconds: float
    seed: int
    kinds: dict[str, int]
    versions: int
    in_force: tuple[float, ...]
    tally: Tally

    @property
    def requests(self) -> int:
        """All that ended."""
        return self.tally.allowed + self.tally.denied + self.tally.either

    @property
    def clean(self) -> bool:
        """True when nothing happened that must not."""
        return not (self.tally.failed or self.tally.passed or self.tally.broken)

    def table(self) -> str:
        """For people."""
        tally = self.tally
        rows = [
            ["requests", f"{self.requests:,} ({self.requests / self.seconds:,.0f}/s)"],
            ["writes of policies", f"{sum(self.kinds.values()):,}, {self.versions:,} versions of what is allowed"],
            ["in force", f"{_ms(median(self.in_force))} in the median, {_ms(max(self.in_force))} at most"],
            ["every possible version allows it", f"{tally.allowed:,}, of which **failed {tally.failed}**"],
            ["no possible version allows it", f"{tally.denied:,}, of which **passed {tally.passed}**"],
            ["some allow it, some do not", f"{tally.either:,}"],
            ["of the last two, neither 200 nor 403", f"{tally.broken}"],
        ]
        kinds = [[kind, f"{count:,}"] for kind, count in self.kinds.items()]
        return "\n\n".join((table(["", ""], rows), table(["writes", ""], kinds), *tally.wrong))

    def markdown(self) -> str:
        """With what it was measured on, and how."""
        head = f"`bench/route-change --minutes {self.seconds / 60:.3g}` (seed {self.seed}), {self.machine}"
        method = _METHOD.format(grace=_GRACE, connections=_CONNECTIONS)
        return f"# Policy changes under load\n\n{head}\n\n{self.table()}\n\n## Method\n\n{method}"

    def json(self) -> dict[str, Any]:
        """All of it as data."""
        return asdict(self)


class Judge(threading.Thread):
    """Reads what the load did, and judges each request when all that concerns it is known."""

    def __init__(self, load: subprocess.Popen[bytes], timeline: Timeline) -> None:
        super().__init__(daemon=True)
        self._load = load
        self._timeline = timeline
        self._waiting: deque[Request] = deque()
        self.tally = Tally()
        self.going = threading.Event()  # something has been answered

    def run(self) -> None:
        """Until the load's output ends."""
        assert self._load.stdout is not None
        while chunk := self._load.stdout.read(RECORD.size * 200):
            for record in RECORD.iter_unpack(chunk[: len(chunk) - len(chunk) % RECORD.size]):
                self._waiting.append(Request(*record))
            self.going.set()
            self._judge(time.monotonic() - _LAG)
        self._judge(float("inf"))

    def _judge(self, until: float) -> None:
        while self._waiting and self._waiting[0].ended < until:
            self._timeline.judge(self._waiting.popleft(), self.tally)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    clean: list[bool] = []

    def run() -> RouteReport:
        report = measure(options.minutes * 60, options.seed)
        clean.append(report.clean)
        return report

    status = command.run("route-change", run, options.output)
    return status or int(not all(clean))


def measure(seconds: float, seed: int, meanwhile: Callable[[ChurnNode], None] = lambda _: None) -> RouteReport:
    """One run of so many seconds; `meanwhile` is called after each change. Raises BenchError."""
    envoy = find_binary()
    with workplace() as directory, _node(directory, compiled_origin(directory)) as node:
        return _change(node, seconds, seed, machine(envoy), meanwhile)


@contextmanager
def _node(directory: Path, origin: Path) -> Iterator[ChurnNode]:
    node = ChurnNode(directory / "node", f"{prefix()}_route", 3, 1, origin)
    try:
        yield node
    finally:
        with uninterrupted():
            node.close()


def _change(
    node: ChurnNode, seconds: float, seed: int, on: Machine, meanwhile: Callable[[ChurnNode], None]
) -> RouteReport:
    changes = Changes(seed)
    timeline = Timeline(_GRACE)
    kinds: Counter[str] = Counter({str(kind): 0 for kind in Kind})
    in_force: list[float] = []
    for name in FILES:
        version = timeline.add(time.monotonic(), frozenset().union(*changes.files.values()))
        node.write(PolicyFile(name, policy(name, changes.files[name], version)))
    node.start_agent()
    until(node.ready, _WAIT, "the agent is ready")
    timeline.seen(version, time.monotonic())
    load = _load(node)
    judge = Judge(load, timeline)
    judge.start()
    until(judge.going.is_set, _WAIT, "the load is going")
    began = time.monotonic()
    bursts = changes.bursts()
    while (left := began + seconds - time.monotonic()) > 0:
        held = dict(changes.files)
        newest: dict[str, tuple[int, float]] = {}
        for write in next(bursts):
            kinds[str(write.kind)] += 1
            if write.other:
                _toggle_other(node, write.file)
                continue
            held[write.file] = write.allowed
            version = timeline.add(time.monotonic(), frozenset().union(*held.values()))
            moment = node.write(PolicyFile(write.file, policy(write.file, write.allowed, version)))
            newest[write.file] = (version, moment)
        for version, moment in newest.values():
            with closing(HttpFlow(node.client.path, node.pods[0].ipv4, PORT, marker_of(version))) as flow:
                in_force.append(await_answer(flow, ALLOWED, _WAIT) - moment)
        if newest:
            timeline.seen(max(version for version, _ in newest.values()), time.monotonic())
        meanwhile(node)
        if load.poll() is not None:
            raise LoadError(f"the load ended with status {load.returncode}")
        time.sleep(min(changes.pause(), max(left, 0)))
    took = time.monotonic() - began
    assert load.stdin is not None
    load.stdin.close()
    judge.join()
    if load.wait() != 0:
        raise LoadError(f"the load ended with status {load.returncode}")
    return RouteReport(on, took, seed, dict(kinds), len(timeline.begins), tuple(in_force), judge.tally)


def _toggle_other(node: ChurnNode, name: str) -> None:
    """A policy that the load does not meet."""
    path = node.settings.policies / f"{name}.yaml"
    if path.exists():
        with suppress(FileNotFoundError):
            path.unlink()
    else:
        node.write(http_policy(name, endpoint_name(1), CLIENT, f"/{name}"))


def _load(node: ChurnNode) -> subprocess.Popen[bytes]:
    command_line = [sys.executable, "-P", "-m", "lockgate.bench.route_load", str(node.pods[0].ipv4), str(PORT)]
    load: subprocess.Popen[bytes] = node.client.popen(
        [*command_line, str(_CONNECTIONS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    if load.poll() is not None:
        raise StartError(f"the load ended with status {load.returncode}")
    return load


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/route-change", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", type=positive, default=1, help="of what is changed how (1)")
    parser.add_argument("--output", type=Path, help="folder for route-change.md and .json (10 minutes: bench/results)")
    options = parser.parse_args(argv)
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    if options.output is None and options.minutes >= 10:
        options.output = RESULTS
    return options


if __name__ == "__main__":
    sys.exit(main())
