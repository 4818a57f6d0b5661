"""One way for a client pod to reach a server pod: the part that all modes share.

A mode is a node of its own with three pods: `client` and `server`, and an `intruder` that no policy allows. All modes
of a run stand side by side, so that they can be measured in turn; a mode that is not being measured is idle. A new mode
is a subclass with its class attributes, `_engage` and `counted`, and an entry in overhead.py's MODES.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lockgate.agent.playground import Namespace, Playground, Pod
from lockgate.redirect.kernel import netns

from .errors import CheckError, StartError

PORT = 80
ALLOWED = "/api/v1/users"
FORBIDDEN = "/api/v1/admin"

_CHECKED_REQUESTS = 8
_READY_TIMEOUT = 60.0  # seconds for a mode to pass its check
_DROP_TIMEOUT = 0.7  # seconds after which an unanswered SYN counts as dropped


@dataclass(frozen=True, slots=True)
class Ground:
    """What all modes of a run share. `directory` is new and short, for Unix sockets; `threads` is for every program."""

    name: str  # prefix of the namespaces
    directory: Path
    origin: Path
    envoy: Path
    threads: int


class Answer(NamedTuple):
    """How one request ended: "200", "403", "dropped" (no connection in time), "refused" or "closed"."""

    outcome: str
    body: str = ""


class Mode(ABC):
    """Make it, `start` it, `await_ready`, measure `url` from `client`, `close` it."""

    key: ClassVar[str]
    title: ClassVar[str]
    forbidden: ClassVar[str]  # outcome of a path outside the policy
    intruder_gets: ClassVar[str]
    server_sees: ClassVar[str] = "client"  # or "server": a sidecar connects from the server's own pod
    proxied: ClassVar[bool]  # whether every Envoy of the mode takes every request, or none takes any

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.directory = ground.directory / self.key
        self.playground: Playground | None = None

    def start(self) -> None:
        """Make the node, the pods and the origin server, then whatever stands between them."""
        self.directory.mkdir(mode=0o700)
        self.playground = playground = Playground(f"{self.ground.name}_{self.key}")
        self.client = playground.pod("client", labels={"app": "client", "role": "frontend"})
        self.intruder = playground.pod("intruder", labels={"app": "intruder"})
        self.server = playground.pod("server", labels={"app": "server"}, ports={"http": PORT})
        self._origin = self._serve()
        self._engage(playground)

    def _serve(self) -> subprocess.Popen[bytes]:
        """Starts the origin server in its pod."""
        return spawn(self.server, [self.ground.origin, str(PORT), str(self.ground.threads)])

    @abstractmethod
    def _engage(self, playground: Playground) -> None:
        """Bring up what the mode measures."""

    @abstractmethod
    def counted(self) -> tuple[int, ...]:
        """Requests that each Envoy of the mode has taken so far; a reading to give to `require_path` later."""

    @property
    def url(self) -> str:
        """What the load asks for."""
        return f"http://{self.server.ipv4}:{PORT}{ALLOWED}"

    @property
    def namespaces(self) -> list[Path]:
        """All namespaces whose processes belong to the mode."""
        assert self.playground is not None
        return [self.playground.node.path, *(pod.path for pod in self.playground.pods)]

    def await_ready(self) -> None:
        """Wait until the mode passes its check.

        Raises:
            CheckError: what it still did wrong when the time was over.
            StartError: a part of it died.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        while True:
            try:
                return self.check()
            except (CheckError, StartError):
                self._require_alive()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def check(self) -> None:
        """Send requests whose outcome is known and compare.

        Raises:
            CheckError: naming the request, what was expected and what came.
        """
        seen_address = str(self.client.ipv4 if self.server_sees == "client" else self.server.ipv4)
        before = self.counted()
        for _ in range(_CHECKED_REQUESTS):
            answer = ask(self.client, self.server, ALLOWED)
            self._expect("200", answer, f"GET {ALLOWED}")
            if answer.body.strip() != seen_address:
                raise CheckError(f"{self.title}: the server saw {answer.body.strip()} and not {seen_address}")
        self.require_path(before, _CHECKED_REQUESTS, _CHECKED_REQUESTS)
        self._expect(self.forbidden, ask(self.client, self.server, FORBIDDEN), f"GET {FORBIDDEN}")
        answer = ask(self.intruder, self.server, ALLOWED)
        self._expect(self.intruder_gets, answer, f"GET {ALLOWED} by the intruder")

    def require_path(self, before: tuple[int, ...], least: int, most: int) -> None:
        """Since the reading `before`, every Envoy took from `least` to `most` requests; none at all if not `proxied`.

        Raises:
            CheckError: the counters say something else.
        """
        if not self.proxied:
            least = most = 0
        for earlier, now in zip(before, self.counted(), strict=True):
            if not least <= now - earlier <= most:
                raise CheckError(
                    f"{self.title}: an Envoy counted {now - earlier} requests where {least} to {most} should pass it"
                )

    def close(self) -> None:
        """Remove all of it. Works on a mode that started halfway."""
        if self.playground is not None:
            self.playground.close()
            self.playground = None

    def _parts(self) -> list[tuple[str, subprocess.Popen[bytes]]]:
        """Processes that must live, with a name for each."""
        return [("the origin server", self._origin)]

    def _require_alive(self) -> None:
        for name, process in self._parts():
            if process.poll() is not None:
                raise StartError(f"{self.title}: {name} ended with status {process.returncode}{self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        """The end of the log of a part that died, if it has one."""
        log = self.log_of(name)
        text = log.read_text(errors="replace").strip() if log.exists() else ""
        return f": {text[-600:]}" if text else ""

    def log_of(self, name: str) -> Path:
        """Where the part called `name` writes what it says."""
        return self.directory / f"{name.replace(' ', '-')}.log"

    def _expect(self, outcome: str, answer: Answer, request: str) -> None:
        if answer.outcome != outcome:
            raise CheckError(f"{self.title}: {request} gave {answer.outcome}, expected {outcome}")


def spawn(where: Namespace, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
    """Start a part of a mode, or its load, in a session of its own.

    A kernel with autogroups shares the cores out by session; pods would have control groups of their own. It also keeps
    the terminal's Ctrl-C from them, so that they end in our order.
    """
    return where.popen(command, start_new_session=True, **options)


def ask(client: Pod, server: Pod, path: str) -> Answer:
    """One GET on a connection of its own, from inside the pod `client`."""

    def request() -> Answer:
        connection = http.client.HTTPConnection(str(server.ipv4), PORT, timeout=_DROP_TIMEOUT)
        try:
            connection.connect()
        except TimeoutError:
            return Answer("dropped")
        except OSError:
            return Answer("refused")
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Answer(str(answer.status), answer.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException):
            return Answer("closed")
        finally:
            connection.close()

    return netns.run_in(client.path, request)
