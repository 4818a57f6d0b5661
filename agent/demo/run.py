"""Carrying the demonstration out: pods, servers, the agent as a user starts it, real requests beside explanations."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...policies import Flow, World, explain
from ..errors import DemoError, UnreachableError
from ..inspection.client import ask
from ..playground import Namespace, Playground, Pod
from ..supply.offline import read_world
from .part import DemoRequest
from .scenario import Scenario
from .site import Progress, Site

_READY_SECONDS = 60.0
_CONNECT_SECONDS = 1.0  # a SYN that the kernel drops is sent again after a second: no answer by then is "dropped"
_EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"


@dataclass(frozen=True, slots=True)
class Row:
    """One request: what happened on the wire beside what `policy explain` says about it."""

    client: str
    server: str
    family: int
    request: str
    happened: str
    verdict: str
    decided_by: str
    reason: str
    seen_from: str  # the client address in the server's own log, empty when it saw nothing
    agrees: bool


class Demo:
    """The running demonstration. `directory` holds its policies, workloads, logs and the agent's run directory."""

    def __init__(self, playground: Playground, directory: Path, scenario: Scenario) -> None:
        self.playground = playground
        self.directory = directory
        self.scenario = scenario
        self.pods: dict[str, Pod] = {}
        self._clients: dict[tuple[str, str], subprocess.Popen[str]] = {}  # by pod and program

    @property
    def policies(self) -> Path:
        """The folder the agent watches; edit a file there and ask again."""
        return self.directory / "policies"

    @property
    def workloads(self) -> Path:
        """The workloads file."""
        return self.directory / "workloads.yaml"

    def build(self) -> None:
        """Pods with a server in each that has one, and the files the agent reads."""
        self.policies.mkdir(parents=True)
        for name in self.scenario.policies:
            shutil.copy(_EXAMPLES / name, self.policies / name)
        for spec in self.scenario.pods:
            pod = self.pods[spec.name] = self.playground.pod(spec.name, labels=spec.labels)
            if spec.port:
                arguments = ["--port", str(spec.port), "--name", spec.name, "--log", str(self._log(spec.name))]
                command = [sys.executable, "-P", "-m", spec.server, *arguments]
                self._detached(pod, command, self.directory / f"{spec.name}.log")
        self.workloads.write_text(self.playground.workloads_yaml())

    def start_agent(self) -> None:
        """`lockgate agent run` in the node's namespace, until it says that it is ready.

        Raises:
            DemoError: it ended, or was not ready in time; its last log lines are in the message.
        """
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "run"]
        command += ["--policies", str(self.policies), "--workloads", str(self.workloads)]
        command += ["--run-dir", str(self.directory), "--state-dir", str(self.directory / "state")]
        log = self.directory / "agent.log"
        agent = self._detached(self.playground.node, command, log)
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if agent.poll() is not None:
                raise DemoError(f"the agent ended with status {agent.returncode}:\n{_tail(log)}")
            try:
                if ask(self.directory, "/v1/status")["ok"]:
                    return
            except UnreachableError:
                pass
            time.sleep(0.05)
        raise DemoError(f"the agent was not ready within {_READY_SECONDS:.0f} s:\n{_tail(log)}")

    @staticmethod
    def _detached(where: Namespace, command: list[str], log: Path) -> subprocess.Popen[Any]:
        """With --keep it stays when the demonstration ends, so it holds on to none of its pipes; nor does Ctrl-C reach
        it, which is for the demonstration alone."""
        with log.open("w") as file:
            return where.popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def ask_all(self, world: World) -> Iterator[Row]:
        """Every request of the scenario, really made."""
        for request in self.scenario.requests:
            yield self._ask_one(request, world)

    def _ask_one(self, request: DemoRequest, world: World) -> Row:
        pod = self.pods[request.server]
        address = str(pod.ipv4 if request.family == 4 else pod.ipv6)
        log = self._log(request.server)
        before = log.stat().st_size if log.exists() else 0
        result = self._from(request.client, request.program, request.order(address, _CONNECT_SECONDS))
        seen = _seen(log, before)
        explanation = explain(world, Flow.from_json(request.flow(address))).to_json()
        verdict = explanation["verdict"]
        passed = request.passed(result)
        expected_address = str(self.pods[request.client].ips[0 if request.family == 4 else 1])
        genuine = not seen or seen == expected_address
        decider = _decider(explanation)
        return Row(
            client=request.client,
            server=request.server,
            family=request.family,
            request=str(request),
            happened=request.words(result),
            verdict=verdict,
            decided_by=f"{decider['policy']}:{decider['rule']}" if decider["rule"] else "default",
            reason=_why(decider),
            seen_from=seen,
            agrees=genuine and passed == (verdict == "allow") and (not seen or passed),
        )

    def _from(self, name: str, program: str, request: dict[str, Any]) -> dict[str, Any]:
        client = self._clients.get((name, program))
        if client is None:
            command = [sys.executable, "-P", "-m", program]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            client = self.pods[name].popen(command, start_new_session=True, **pipes)
            self._clients[name, program] = client
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(json.dumps(request) + "\n")
        client.stdin.flush()
        answer = client.stdout.readline()
        if not answer:
            raise DemoError(f"the client in pod {name} ended with status {client.wait()}")
        result: dict[str, Any] = json.loads(answer)
        return result

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.requests"


@contextmanager
def demonstration(site: Site, progress: Progress, keep: bool, scenario: Scenario) -> Iterator[Demo]:
    """Builds it and takes it away again, whatever happens; with `keep` only if it failed.

    Raises:
        AlreadyRunningError: another one is at work there.
        DemoError: it cannot be built.
    """
    with site.taken():
        if site.directory.exists():
            progress("removing what an earlier demonstration left")
        site.clean(progress)
        kept = False
        playground: Playground | None = None
        try:
            progress("making pods: " + ", ".join(pod.name for pod in scenario.pods))
            try:
                playground = Playground(site.name)
                site.directory.mkdir(mode=0o700)
                demo = Demo(playground, site.directory, scenario)
                demo.build()
            except (OSError, RuntimeError) as error:
                raise DemoError(f"cannot make the pods: {error}") from error
            progress("starting the agent: it loads eBPF, starts Envoy and applies " + ", ".join(scenario.policies))
            demo.start_agent()
            yield demo
            kept = keep
        finally:
            if not kept:
                progress("cleaning up")
                site.clean(progress)
                if playground is not None:
                    playground.close()


def demo_world(demo: Demo) -> World:
    """The world of the demonstration's files, as `policy explain` reads it."""
    return read_world(demo.policies, demo.workloads).world


def to_json(rows: list[Row]) -> dict[str, Any]:
    """The result as data."""
    return {"agree": all(row.agrees for row in rows), "requests": [asdict(row) for row in rows]}


def _seen(log: Path, before: int) -> str:
    """The client address of the request that reached the server after byte `before` of its log."""
    if not log.exists():
        return ""
    with log.open() as file:
        file.seek(before)
        lines = file.read().splitlines()
    return str(json.loads(lines[-1])["client"]) if lines else ""


def _decider(explanation: dict[str, Any]) -> dict[str, Any]:
    """The direction that decided: the one that denies, else the one with a policy."""
    egress, ingress = explanation["egress"], explanation["ingress"]
    if egress["verdict"] == "deny":
        return dict(egress)
    return dict(ingress if ingress["verdict"] == "deny" or ingress.get("rule") or not egress.get("rule") else egress)


def _why(decider: dict[str, Any]) -> str:
    """What the deciding rule found, or what each rule lacked when none matched."""
    if decider["rule"]:
        found = [item["why"] for item in decider["considered"] if item["rule"] == decider["rule"] and item["matched"]]
    else:
        found = [item["why"] for item in decider["considered"] if item["policy"] != "local-host"]
    return "; ".join(dict.fromkeys(found)) or str(decider["reason"])


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
