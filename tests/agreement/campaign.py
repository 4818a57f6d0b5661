"""Generated policies and flows, judged three times: by the verdict function, by the kernel's programs and by Envoy.

`scripts/agreement` runs it for long, tests/agreement/test_agreement.py for a short while with a fixed seed.

Requests go in HTTP/1.1 and HTTP/2, the latter with prior knowledge and by ALPN in TLS, calls of gRPC among them. Each
has a connection of its own. Left to tests of their own are rules for Kafka and questions of DNS (their proxies are
not asked; that the kernel hands questions over is compared), nodeSelector, certificates of clients (trustedCA beside
terminatingTLS), upgrades, and what follows when one policy takes the place of another.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from lockgate.policies.errors import FlowError
from lockgate.tests.agreement.author import Hints
from lockgate.tests.agreement.case import Case, InvalidCase, Setting
from lockgate.tests.agreement.documents import setting_with_hints
from lockgate.tests.agreement.flows import flows
from lockgate.tests.agreement.node import Node, running_node
from lockgate.tests.agreement.shrink import shrink

T = TypeVar("T")

CASES = Path(__file__).parent / "cases"
ENOUGH = 10  # different disagreements after which a campaign ends


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A shrunk case, and what was said about it."""

    case: Case
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.sentences, self.case.text()])


@dataclass
class Result:
    """What a campaign did. `distinct` counts settings that differ from each other."""

    policy_sets: int = 0
    policies: int = 0
    flows: int = 0
    disagreeing_flows: int = 0
    digests: set[bytes] = field(default_factory=set)
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        """Settings that differ from each other."""
        return len(self.digests)


class Lab:
    """A node with an event loop of its own, to be used from code that is not asynchronous."""

    def __init__(self, runner: asyncio.Runner, node: Node) -> None:
        self._runner = runner
        self.node = node

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Something that the node does, to its end."""
        return self._runner.run(work)

    def disagreements(self, case: Case) -> list[str]:
        """What disagrees about one case. Raises InvalidCase."""
        return self._runner.run(self._judge_one(case))

    def campaign(self, policy_sets: int, flows_each: int, number: int, show: bool = False) -> Result:
        """`policy_sets` random settings of seed `number`, with `flows_each` flows each."""
        result, started = Result(), time.monotonic()

        @seed(number)
        @settings(
            max_examples=policy_sets,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(use_true_random=True))
        def one_setting(random: Random) -> None:
            if len(result.disagreements) >= ENOUGH:
                return
            setting, hints = setting_with_hints(random)
            before = len(result.disagreements)
            self._runner.run(self._try(setting, hints, random, flows_each, result))
            for found in result.disagreements[before:] if show else ():
                print(found, flush=True)
            if show and result.policy_sets % 25 == 0:
                print(self.progress(result, time.monotonic() - started), flush=True)

        one_setting()
        if show:
            print(self.progress(result, time.monotonic() - started), flush=True)
        return result

    def progress(self, result: Result, seconds: float) -> str:
        """One line."""
        tally = self.node.tally
        verdicts = ", ".join(f"{count} {word}" for word, count in sorted(tally.flows.items()))
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(tally.requests.items()))
        spoken = ", ".join(f"{count} {how}" for how, count in sorted(tally.spoken.items()))
        return (
            f"{seconds:6.0f} s  {result.policy_sets} sets ({result.distinct} distinct, {result.policies} policies), "
            f"{result.flows} flows ({verdicts}), {tally.packets} packets, Envoy: {answers} ({spoken}; "
            f"{tally.changed} changed, {tally.grpc} denied to gRPC, {tally.awaited} in whole TLS); "
            f"{result.disagreeing_flows} disagree"
        )

    async def _try(self, setting: Setting, hints: Hints, random: Random, number: int, result: Result) -> None:
        world, wrong = await self.node.enforce(setting)
        result.policy_sets += 1
        result.policies += sum(each["kind"] != "Secret" for each in setting.policies)
        result.digests.add(sha256(repr(setting).encode()).digest())
        asked = flows(random, world, hints, number)
        if wrong:
            await self._add(Case(setting, asked[0]), wrong, result)
            return
        for flow in asked:
            result.flows += 1
            if wrong := await self.node.compare(world, flow):
                await self._add(Case(setting, flow), wrong, result)
                return

    async def _add(self, case: Case, sentences: list[str], result: Result) -> None:
        found = await self._shrunk(case, sentences)
        result.disagreeing_flows += 1
        if found not in result.disagreements:
            result.disagreements.append(found)

    async def _shrunk(self, case: Case, sentences: list[str]) -> Disagreement:
        kinds = {sentence.partition(":")[0] for sentence in sentences}

        async def fails(candidate: Case) -> bool:
            try:
                found = await self._judge_one(candidate)
            except (InvalidCase, FlowError, KeyError, ValueError):
                return False
            return any(sentence.partition(":")[0] in kinds for sentence in found)

        if not await fails(case):
            return Disagreement(case, (*sentences, "(It did not happen again when the case was tried alone.)"))
        small = await shrink(case, fails)
        return Disagreement(small, tuple(await self._judge_one(small)))

    async def _judge_one(self, case: Case) -> list[str]:
        world, wrong = await self.node.enforce(case.setting)
        return wrong or await self.node.compare(world, case.flow)


@contextmanager
def running_lab() -> Iterator[Lab]:
    """A lab in a network namespace of its own; the calling thread is in it meanwhile. Needs root."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Lab(runner, runner.run(stack.enter_async_context(running_node())))
        finally:
            runner.run(stack.aclose())


def keep(found: Disagreement, folder: Path = CASES) -> Path:
    """Writes the case to a file named by its content, with what was said as its note."""
    case = found.case.noted("\n".join(found.sentences))
    path = folder / f"{sha256(found.case.text().encode()).hexdigest()[:12]}.yaml"
    path.write_text(case.text())
    return path


def main() -> int:
    """The command; the exit status is 1 when something disagreed."""
    parser = argparse.ArgumentParser(prog="scripts/agreement", description=__doc__)
    parser.add_argument("--policies", type=int, default=500, help="policy sets to generate (default %(default)s)")
    parser.add_argument("--flows", type=int, default=20, help="flows for each of them (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=None, help="repeats a campaign; otherwise one is made up and printed"
    )
    given_arguments = parser.parse_args()
    number = given_arguments.seed if given_arguments.seed is not None else int(time.time())
    print(f"seed {number}: {given_arguments.policies} policy sets, {given_arguments.flows} flows each", flush=True)
    with running_lab() as lab:
        result = lab.campaign(given_arguments.policies, given_arguments.flows, number, show=True)
    for found in result.disagreements:
        print(f"\n{keep(found)}\n{found}")
    print(
        f"seed {number}: {result.policy_sets} policy sets, {result.flows} flows, "
        f"{result.disagreeing_flows} of them disagree in {len(result.disagreements)} ways"
    )
    return 1 if result.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
