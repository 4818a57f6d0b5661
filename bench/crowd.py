"""A node with many policed workloads: behind the one Envoy, or with a sidecar each."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lockgate.agent.playground import Playground, Pod
from lockgate.envoy.running.run_files import read_state

from . import counter
from .errors import StartError
from .mode import Ground, spawn
from .policed import PolicedL7, http_policy
from .sidecar import configuration

_READY_TIMEOUT = 120.0  # seconds for all sidecars together
_MIB = 1024  # in KiB


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of processes of one program: what is each one's own, and the file they were loaded from once. MiB."""

    processes: int
    own: float
    program: float

    @property
    def total(self) -> float:
        """Their proportional set size, were nobody else running the same file."""
        return self.own + self.program


class Crowd(PolicedL7):
    """L7-policed with so many policed workloads in all, each with a policy of its own; one of them serves the load."""

    def __init__(self, ground: Ground, workloads: int) -> None:
        self.key = f"crowd{workloads}"  # type: ignore[misc]
        self.title = f"{workloads} workloads"  # type: ignore[misc]
        self.workloads = workloads
        super().__init__(ground)

    def _engage(self, playground: Playground) -> None:
        names = [f"crowd-{number}" for number in range(1, self.workloads)]
        self.policed = [self.server, *(playground.pod(name, labels={"app": name}) for name in names)]
        super()._engage(playground)

    def _policies(self) -> dict[str, str]:
        crowd = {pod.name: http_policy(pod.name, f"/{pod.name}") for pod in self.policed[1:]}
        return super()._policies() | crowd

    def memory(self) -> tuple[Footprint, Footprint]:
        """Of the one Envoy, and of the agent."""
        state = read_state(self._settings.run_dir)
        if state is None or not state.envoy_pid:
            raise StartError(f"{self.title}: no Envoy runs")
        return footprint([state.envoy_pid]), footprint([self._agent.pid])


class Sidecars:
    """A sidecar in each of `pods`, which has its configuration and no traffic yet."""

    def __init__(self, ground: Ground, client: Pod, directory: Path) -> None:
        self._ground = ground
        self._client = client
        self._directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, pods: list[Pod]) -> None:
        """In pods that have none yet. Raises StartError when one does not come up."""
        for pod in pods:
            file = self._directory / f"{pod.name}.json"
            file.write_text(json.dumps(configuration(self._admin(pod), self._client.ipv4)))
            command: list[str | Path] = [self._ground.envoy, "-c", file, "--concurrency", str(self._ground.threads)]
            command += ["--disable-hot-restart", "--log-level", "error"]
            self._running.append(spawn(pod, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + _READY_TIMEOUT
        for pod in pods:
            while not self._lives(pod):
                if time.monotonic() > deadline:
                    raise StartError(f"the sidecar of {pod.name} does not come up")
                time.sleep(0.1)

    def _lives(self, pod: Pod) -> bool:
        try:
            return counter.matching(self._admin(pod), "^server.live$") == {"server.live": 1}
        except StartError:
            return False

    def memory(self) -> Footprint:
        """Of all that run."""
        return footprint([process.pid for process in self._running])

    def _admin(self, pod: Pod) -> Path:
        return self._directory / f"{pod.name}.sock"


def footprint(pids: list[int]) -> Footprint:
    """Of processes that were all loaded from the same file."""
    fields = [_resident(Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    own = sum(each["RssAnon"] for each in fields)
    return Footprint(len(pids), own / _MIB, max(each["RssFile"] + each["RssShmem"] for each in fields) / _MIB)


def _resident(status: str) -> dict[str, int]:
    """The Rss* fields of /proc/PID/status, KiB."""
    lines = (line.split() for line in status.splitlines() if line.startswith("Rss"))
    return {name.rstrip(":"): int(value) for name, value, _unit in lines}
