"""What a change of policy costs, and how that grows with the number of policies.

Started by the script `bench/policy-churn`, which installs what is missing. Exit status: 0 measured (whether or not an
aim is reached), 1 it could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from lockgate.envoy.running.binary import find_binary

from . import command
from .churn_node import ChurnNode
from .churn_report import Added, Changes, ChurnReport, Size, Start
from .cpu import Stopwatch
from .machine import machine
from .policy_set import CLIENT, HTTP_PORT, PLAIN_PORT, SERVED, endpoint_name, http_policy, plain_policy, policies
from .probe import ALLOWED, DENIED, DROPPED, Flow, HttpFlow, Knock, Watch, await_answer, until
from .workplace import RESULTS, compiled_origin, positive, positives, prefix, uninterrupted, workplace

_CHANGED, _WATCHED = 0, 1  # the endpoint whose policies change, and one besides; both are watched
_PROBED = 2  # endpoints with servers
_TOGGLE, _ELSEWHERE = "/toggle", "/elsewhere"
_OTHER_PORT = PLAIN_PORT + 1
_PATIENCE = 0.05  # seconds without an answer to a SYN that count as a drop
_GLANCE = 0.002  # while a port is closed: a SYN that was dropped is answered no more, the next one may be
_LOOK = 0.05  # seconds between two questions whether the agent is ready: each costs it some CPU
_WAIT = 120.0  # seconds after which a change that shows no effect ends the run
_FIRST_ADDED = 1_000_000  # numbers the policies that are added, apart from those that are there


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("policy-churn", lambda: measure(options), options.output)


def measure(options: argparse.Namespace) -> ChurnReport:
    """Each size on a node of its own, one after the other."""
    envoy = find_binary()
    sizes = []
    with workplace() as directory:
        origin = compiled_origin(directory)
        for count in options.sizes:
            _say(f"{count} policies: making {options.endpoints} endpoints")
            with _node(directory / str(count), count, options.endpoints, origin) as node:
                sizes.append(_size(node, count, options))
    return ChurnReport(machine(envoy), options.endpoints, options.changes, options.add, options.pause, tuple(sizes))


@contextmanager
def _node(directory: Path, count: int, endpoints: int, origin: Path) -> Iterator[ChurnNode]:
    node = ChurnNode(directory, f"{prefix()}_{count}", endpoints, _PROBED, origin)
    try:
        yield node
    finally:
        with uninterrupted():
            node.close()


def _size(node: ChurnNode, count: int, options: argparse.Namespace) -> Size:
    for policy in policies(count, options.endpoints):
        node.write(policy)
    for number in range(_PROBED):
        name = endpoint_name(number)
        node.write(http_policy(f"served-http-{number}", name, CLIENT, SERVED))
        node.write(plain_policy(f"served-plain-{number}", name, CLIENT, PLAIN_PORT))
    watch = Stopwatch([node.playground.node.path, *(pod.path for pod in node.playground.pods)])
    watch.start()
    began = time.monotonic()
    cold = _start(node)
    _say(f"{count} policies: first start {cold.ready:.2f} s, {cold.agent_cpu:.2f} s of the agent's CPU")
    node.reboot()
    rebooted = _start(node)
    _say(
        f"{count} policies: start after a reboot {rebooted.ready:.2f} s, {rebooted.agent_cpu:.2f} s of the agent's CPU"
    )
    http = _changes(node, options.changes, _http_toggle(node))
    _say(f"{count} policies: an HTTP change {http}")
    plain = _changes(node, options.changes, _plain_toggle(node))
    _say(f"{count} policies: an L4 change {plain}")
    added = _add(node, options)
    _say(f"{count} policies: {added}")
    agent, envoy = node.agent(), node.envoy()
    node.stop_agent()
    warm = _start(node)
    _say(f"{count} policies: restart of the agent {warm.ready:.2f} s")
    foreign = watch.stop().foreign / (time.monotonic() - began)
    return Size(
        policies=count,
        entries=node.entries(),
        cold=cold,
        rebooted=rebooted,
        warm=warm,
        http=http,
        plain=plain,
        added=added,
        agent_peak=agent.peak,
        envoy_peak=envoy.peak,
        foreign=foreign,
    )


def _start(node: ChurnNode) -> Start:
    """From the start of the agent's process to the moment when it enforces everything."""
    began = node.start_agent()
    ready = until(node.ready, _WAIT, "the agent is ready", _LOOK) - began
    for flow, wanted in _flows(node).values():
        with closing(flow):
            await_answer(flow, wanted, 1.0)
    agent, envoy = node.agent(), node.envoy()
    return Start(ready, agent.cpu, agent.rss, envoy.rss)


def _flows(node: ChurnNode) -> dict[str, tuple[Flow, str]]:
    """What the policies mean for the client, whatever is added for others."""
    found: dict[str, tuple[Flow, str]] = {}
    for number in (_CHANGED, _WATCHED):
        pod = node.pods[number]
        where = (node.client.path, pod.ipv4)
        found |= {
            f"{pod.name} allowed path": (HttpFlow(*where, HTTP_PORT, SERVED), ALLOWED),
            f"{pod.name} other path": (HttpFlow(*where, HTTP_PORT, "/forbidden"), DENIED),
            f"{pod.name} plain, kept": (HttpFlow(*where, PLAIN_PORT, "/"), ALLOWED),
            f"{pod.name} plain, new": (Knock(*where, PLAIN_PORT, 1.0), ALLOWED),
            f"{pod.name} closed port": (Knock(*where, _OTHER_PORT, _PATIENCE), DROPPED),
        }
    return found


class _Toggle:
    """One policy in two versions, and the flow that tells them apart: `opening` asks for the first answer that is none
    of `off_answer`."""

    def __init__(
        self,
        flow: Flow,
        on: Callable[[], float],
        off: Callable[[], float],
        off_answer: str,
        opening: Flow | None = None,
    ) -> None:
        self.flow = flow
        self.opening = opening or flow
        self.on = on
        self.off = off
        self.off_answer = off_answer


def _http_toggle(node: ChurnNode) -> _Toggle:
    pod = node.pods[_CHANGED]
    on, off = (http_policy("toggled-http", pod.name, CLIENT, path) for path in (_TOGGLE, _ELSEWHERE))
    flow = HttpFlow(node.client.path, pod.ipv4, HTTP_PORT, _TOGGLE)
    return _Toggle(flow, lambda: node.write(on), lambda: node.write(off), DENIED)


def _plain_toggle(node: ChurnNode) -> _Toggle:
    """The client's own port is the one that nobody else is let to, so a server is found there only when it is open."""
    pod = node.pods[_CHANGED]
    on, off = (plain_policy("toggled-plain", pod.name, CLIENT, port) for port in (_OTHER_PORT, _OTHER_PORT + 1))
    flow, opening = (Knock(node.client.path, pod.ipv4, _OTHER_PORT, patience) for patience in (_PATIENCE, _GLANCE))
    return _Toggle(flow, lambda: node.write(on), lambda: node.write(off), DROPPED, opening)


def _changes(node: ChurnNode, count: int, toggle: _Toggle) -> Changes:
    """`count` changes, one at a time, in turn opening and closing."""
    chance = random.Random(count)
    with closing(toggle.flow):
        toggle.off()
        await_answer(toggle.flow, toggle.off_answer, _WAIT)
        opened: list[float] = []
        closed: list[float] = []
        time.sleep(0.3)
        agent, envoy = node.agent(), node.envoy()
        for number in range(count):
            opens = number % 2 == 0
            before = toggle.on() if opens else toggle.off()
            wanted = _opened(toggle) if opens else toggle.off_answer
            flow = toggle.opening if opens else toggle.flow
            (opened if opens else closed).append(await_answer(flow, wanted, _WAIT) - before)
            time.sleep(0.15 + chance.random() * 0.1)  # the next one meets an agent at rest, at no fixed beat
        agent_cpu, envoy_cpu = node.agent().cpu - agent.cpu, node.envoy().cpu - envoy.cpu
        return Changes(tuple(opened), tuple(closed), agent_cpu / count, envoy_cpu / count)


def _opened(toggle: _Toggle) -> str:
    """A port that nobody listens on is open when the refusal comes back."""
    return ALLOWED if isinstance(toggle.flow, HttpFlow) else "closed"


def _add(node: ChurnNode, options: argparse.Namespace) -> Added:
    """Policies added one after the other while flows that they are not about are watched."""
    endpoints = options.endpoints
    checked: list[Flow] = []
    with Watch(_flows(node)) as watch:
        began = last = time.monotonic()
        for number in range(options.add):
            about = number % endpoints
            name, path = f"added-{_FIRST_ADDED + number}", f"/added/{number}"
            last = node.write(http_policy(name, endpoint_name(about), CLIENT, path))
            if about < _PROBED:
                checked.append(HttpFlow(node.client.path, node.pods[about].ipv4, HTTP_PORT, path))
            time.sleep(options.pause / 1000)
        wrote = last - began
        in_force = max((_enforced(flow) for flow in checked), default=last) - last
        until(node.ready, _WAIT, "everything that was added is in force", _LOOK)
    if watch.wrong:
        _say(f"wrong answers: {'; '.join(sorted(set(watch.wrong)))}")
    return Added(options.add, wrote, max(in_force, 0.0), sum(watch.asked.values()), len(watch.wrong))


def _enforced(flow: Flow) -> float:
    with closing(flow):
        return await_answer(flow, ALLOWED, _WAIT)


def _say(text: str) -> None:
    print(f"policy-churn: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/policy-churn", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=positives, help="numbers of policies (100,1000,10000; with --quick 100,1000)")
    parser.add_argument("--endpoints", type=positive, help="on so many endpoints (100; with --quick 20)")
    parser.add_argument("--changes", type=positive, help="single changes of each kind (100; with --quick 10)")
    parser.add_argument("--add", type=positive, help="policies to add one after the other (3000; with --quick 100)")
    parser.add_argument("--pause", type=positive, default=5, help="milliseconds between two of these (5)")
    parser.add_argument("--quick", action="store_true", help="a short run that shows that all works; writes no result")
    parser.add_argument(
        "--output", type=Path, help="folder for policy-churn.md and .json (bench/results; with --quick none)"
    )
    options = parser.parse_args(argv)
    full = (options.sizes, options.endpoints, options.changes, options.add) == (None, None, None, None)
    options.sizes = options.sizes or ((100, 1000) if options.quick else (100, 1000, 10_000))
    options.endpoints = options.endpoints or (20 if options.quick else 100)
    options.changes = options.changes or (10 if options.quick else 100)
    options.add = options.add or (100 if options.quick else 3000)
    if options.endpoints < _PROBED:
        parser.error(f"--endpoints must be {_PROBED} or more")
    if options.output is None and full and not options.quick:
        options.output = RESULTS
    return options


if __name__ == "__main__":
    sys.exit(main())
