"""A node with many endpoints and as many policies as wanted, enforced by `lockgate agent run` as a user starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Playground, Pod
from lockgate.agent.settings import Settings

from .errors import StartError
from .mode import spawn
from .policy_set import CLIENT, HTTP_PORT, PLAIN_PORT, PolicyFile, endpoint_name

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment: CPU seconds so far, resident memory now and at its highest, in MB of 10^6 bytes."""

    cpu: float
    rss: float
    peak: float


class ChurnNode:
    """`endpoints` pods and a client. Pods `served` run two web servers each, on HTTP_PORT and PLAIN_PORT."""

    def __init__(self, directory: Path, name: str, endpoints: int, served: int, origin: Path) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.playground = Playground(name)
        self.client = self.playground.pod(CLIENT, labels={"app": CLIENT})
        names = [endpoint_name(number) for number in range(endpoints)]
        self.pods: list[Pod] = [self.playground.pod(each, labels={"app": each}) for each in names]
        for pod in self.pods[:served]:
            for port in (HTTP_PORT, PLAIN_PORT):
                spawn(pod, [origin, str(port), "1"])
        self.settings = Settings(
            directory / "policies",
            directory / "workloads.yaml",
            run_dir=directory / "run",
            state_dir=directory / "state",
            cache_dir=directory / "cache",
        )
        self.settings.workloads.write_text(self.playground.workloads_yaml())
        self.settings.policies.mkdir()
        self._agent: subprocess.Popen[bytes] | None = None

    def write(self, policy: PolicyFile) -> float:
        """Writes one policy as an editor does, by renaming over it; returns the moment (monotonic) before."""
        path = self.settings.policies / policy.file_name
        new = path.with_name(f".{path.name}")
        new.write_text(policy.text)
        before = time.monotonic()
        new.replace(path)
        return before

    def start_agent(self) -> float:
        """Starts the agent and does not wait for it; returns the moment before."""
        settings = self.settings
        command: list[str | Path] = [Path(sys.executable).with_name("lockgate"), "agent", "run"]
        command += ["--policies", settings.policies, "--workloads", settings.workloads]
        command += ["--run-dir", settings.run_dir, "--state-dir", settings.state_dir]
        command += ["--cache-dir", settings.cache_dir]
        with (self.directory / "agent.log").open("ab") as log:
            before = time.monotonic()
            self._agent = spawn(self.playground.node, command, stdout=log, stderr=subprocess.STDOUT)
        return before

    def stop_agent(self) -> None:
        """Ends the agent; Envoy and the kernel go on."""
        assert self._agent is not None
        self._agent.terminate()
        self._agent.wait(_STOP_SECONDS)

    def reboot(self) -> None:
        """Ends the agent, and leaves what a reboot leaves: what is on the disk. (The disk's cache stays warm.)"""
        self.stop_agent()
        command: list[str | Path] = [Path(sys.executable).with_name("lockgate"), "agent", "clean"]
        ended = self.playground.node.run([*command, "--run-dir", self.settings.run_dir])
        if ended.returncode != 0:
            raise StartError(f"'agent clean' failed: {ended.stderr.strip()[-600:]}")

    def status(self) -> dict[str, Any] | None:
        """What the agent says of the node; None while it does not answer. Raises StartError when it has ended."""
        assert self._agent is not None
        if self._agent.poll() is not None:
            log = (self.directory / "agent.log").read_text(errors="replace").strip()
            raise StartError(f"the agent ended with status {self._agent.returncode}: {log[-600:]}")
        with suppress(UnreachableError):
            status: dict[str, Any] = ask(self.settings.run_dir, "/v1/status")
            return status
        return None

    def ready(self) -> bool:
        """True when the agent enforces what it was given."""
        status = self.status()
        return status is not None and bool(status["ok"])

    def agent(self) -> Process:
        """The agent now."""
        assert self._agent is not None
        return _process(self._agent.pid)

    def envoy(self) -> Process:
        """The node's Envoy now."""
        status = self.status()
        if status is None or status["envoy"]["pid"] is None:
            raise StartError("the agent runs no Envoy")
        return _process(int(status["envoy"]["pid"]))

    def entries(self) -> int:
        """Entries of the kernel's policy map."""
        status = self.status()
        return int(status["datapath"]["policy_entries"]) if status is not None else 0

    def close(self) -> None:
        """Removes all of it, and what the agent left pinned for a successor that will not come."""
        self.playground.close()
        shutil.rmtree(self.settings.pin_dir, ignore_errors=True)


def _process(pid: int) -> Process:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {name: text for name, _, text in (line.partition(":") for line in lines)}

    def megabytes(name: str) -> float:
        return int(sizes[name].split()[0]) * 1024 / 1e6

    return Process((int(fields[11]) + int(fields[12])) / _TICKS, megabytes("VmRSS"), megabytes("VmHWM"))
