"""Hot restarts of Envoy under load: how many requests fail? None should.

Started by the script `bench/envoy-restart`. Exit status: 0 nothing failed, 1 something did or could not be measured,
130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Playground
from lockgate.agent.settings import Settings
from lockgate.envoy.errors import EnvoyError
from lockgate.envoy.running import hot_restart, run_files
from lockgate.envoy.running import restart as hot

from .errors import CheckError, StartError
from .grpc_mode import SERVICE
from .mode import spawn
from .steady_load import PAGE, SOCKET, TOPICS
from .workplace import interruptible, positive, prefix, uninterrupted, workplace

HTTP_PORT, GRPC_PORT, KAFKA_PORT = 80, 50051, 9092
DRAIN = 4  # seconds that a replaced Envoy has
_READY_SECONDS = 60.0
_KAFKA = "        - {{role: produce, topic: {topic}}}\n        - {{role: consume, topic: {topic}}}\n"
_POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: bench}}
spec:
  endpointSelector: {{matchLabels: {{app: server}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: client}}}}]
    toPorts:
    - ports: [{{port: "{HTTP_PORT}", protocol: TCP}}]
      rules: {{http: [{{method: GET, path: "{PAGE}|{SOCKET}"}}]}}
    - ports: [{{port: "{GRPC_PORT}", protocol: TCP}}]
      rules: {{grpc: [{{service: {SERVICE}}}]}}
    - ports: [{{port: "{KAFKA_PORT}", protocol: TCP}}]
      rules:
        kafka:
{"".join(_KAFKA.format(topic=topic) for topic in TOPICS)}"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done meanwhile, by kind, and what failed."""

    restarts: int
    done: dict[str, int]
    failures: list[str] = field(default_factory=list)


class RestartNode:
    """A node with a server and a client under load. Close it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.playground = Playground(name)
        self.client = self.playground.pod("client", labels={"app": "client"})
        self.server = self.playground.pod("server", labels={"app": "server"})
        own = directory / "node"
        own.mkdir(mode=0o700)
        self.settings = Settings(own / "policies", own / "workloads.yaml", run_dir=own / "run", state_dir=own / "state")
        self.settings.policies.mkdir()
        (self.settings.policies / "bench.yaml").write_text(_POLICY)
        self.settings.workloads.write_text(self.playground.workloads_yaml())
        (own / "config.yaml").write_text(f"envoy_drain: {DRAIN}\n")
        python = [sys.executable, "-P", "-m"]
        spawn(self.server, [*python, "lockgate.bench.steady_server", str(HTTP_PORT)])
        log = own / "calls"
        spawn(self.server, [*python, "lockgate.agent.demo.grpc_server", "--port", str(GRPC_PORT), "--log", log])
        broker = [*python, "lockgate.agent.demo.kafka_server", "--port", str(KAFKA_PORT), "--log", str(own / "asked")]
        spawn(self.server, broker, stdout=subprocess.DEVNULL)
        self.start_agent()

    def start_agent(self, *more: object) -> None:
        """Starts it and does not wait until it is ready."""
        settings, own = self.settings, self.directory / "node"
        command: list[str | Path] = [sys.executable, "-P", "-m", "lockgate", "agent", "run"]
        command += ["--policies", settings.policies, "--workloads", settings.workloads]
        command += ["--run-dir", settings.run_dir, "--state-dir", settings.state_dir]
        command += ["--config", own / "config.yaml", *map(str, more)]
        with (own / "agent.log").open("ab") as log:
            self._agent = spawn(self.playground.node, command, stdout=log, stderr=subprocess.STDOUT)

    def replace_agent(self, *more: object) -> None:
        """Ends the agent and starts another, which wants another Envoy than runs; until the one that ran is gone.

        Raises StartError.
        """
        before = self.envoy_pid()
        self._agent.terminate()
        self._agent.wait(_READY_SECONDS)
        self.start_agent(*more)
        self._until("another Envoy serves", lambda: self.envoy_pid() not in (0, before))
        self._until("the replaced Envoy is gone", lambda: not self._leaving())
        self.await_ready()

    def envoy_pid(self) -> int:
        """Of the Envoy that serves; 0 when none does."""
        state = run_files.read_state(self.settings.run_dir)
        return state.envoy_pid if state is not None else 0

    def await_ready(self) -> None:
        """Raises StartError."""
        self._until("the agent is ready", self._ok)

    def load(self) -> subprocess.Popen[str]:
        """Starts it and waits until it is going; it ends when its standard input does."""
        command = [sys.executable, "-P", "-m", "lockgate.bench.steady_load", str(self.server.ipv4)]
        command += [str(HTTP_PORT), str(GRPC_PORT), str(KAFKA_PORT)]
        load: subprocess.Popen[str] = self.client.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert load.stdout is not None
        if load.stdout.readline() != "going\n":
            raise StartError(f"the load ended with status {load.wait()}")
        return load

    def restart(self) -> None:
        """What `lockgate envoy restart` does, and until the one that was replaced is gone. Raises CheckError."""
        try:
            asyncio.run(hot.restart(self.settings.run_dir))
        except EnvoyError as error:
            raise CheckError(f"restart: {error}") from None
        self._until("the replaced Envoy is gone", lambda: not self._leaving())

    def close(self) -> None:
        """Removes all of it."""
        self.playground.close()
        hot_restart.forget(self.settings.run_dir)
        shutil.rmtree(self.settings.pin_dir, ignore_errors=True)

    def _ok(self) -> bool:
        try:
            return bool(ask(self.settings.run_dir, "/v1/status")["ok"])
        except UnreachableError:
            return False

    def _leaving(self) -> bool:
        state = run_files.read_state(self.settings.run_dir)
        return state is None or state.leaving is not None

    def _until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not true():
            if self._agent.poll() is not None or time.monotonic() > deadline:
                words = (self.directory / "node/agent.log").read_text(errors="replace")[-600:]
                raise StartError(f"in vain until {what}: {words}")
            time.sleep(0.05)


def measure(directory: Path, name: str, restarts: int, say: Callable[[str], None]) -> Outcome:
    """So many hot restarts, one after the other, under load.

    Raises:
        BenchError: a restart was refused, or nothing could be measured.
    """
    with ExitStack() as stack:
        node = RestartNode(directory, name)
        stack.callback(_close, node)
        node.await_ready()
        load = node.load()
        for number in range(restarts):
            node.restart()
            say(f"restart {number + 1} of {restarts}")
        output, _ = load.communicate(timeout=60)
        if load.returncode != 0:
            raise StartError(f"the load ended with status {load.returncode}")
        result = json.loads(output)
        return Outcome(restarts, result["done"], result["failures"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bench/envoy-restart", description=__doc__.split("\n")[0] if __doc__ else None
    )
    parser.add_argument("--restarts", type=positive, default=50, help="how many (50)")
    options = parser.parse_args(argv)
    interruptible()
    try:
        with workplace() as directory:
            outcome = measure(directory, f"{prefix()}_restart", options.restarts, _say)
    except (CheckError, StartError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted; everything it made is removed")
        return 130
    for failure in outcome.failures[:20]:
        _say(failure)
    done = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.done.items()))
    print(f"{outcome.restarts} restarts; {done}; {len(outcome.failures)} failed")
    return 1 if outcome.failures else 0


def _close(node: RestartNode) -> None:
    with uninterrupted():
        node.close()


def _say(text: str) -> None:
    print(f"envoy-restart: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
