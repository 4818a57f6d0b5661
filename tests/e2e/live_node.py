"""A whole node for tests: namespaces as pods, web servers in them, and the agent as a user runs it.

What a client can tell apart is an `Answer`: a status with a body, or the way in which the connection failed. What
reached a pod is in its server's `seen`. Failed waits carry the end of the agent's log.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Namespace, Playground, Pod
from lockgate.agent.settings import Settings
from lockgate.redirect.kernel import netns
from lockgate.tests.command_line import Ended, lockgate

PATIENCE = 90.0  # seconds, for what must come
GLANCE = 0.4  # seconds, for what must not come
EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended: HTTP's status and body, or status 0 and what happened instead."""

    status: int
    body: str = ""
    failure: str = ""

    def __str__(self) -> str:
        return self.failure or f"{self.status} {self.body.strip()}".strip()


OK = "200"
DENIED = "403 Access denied"
DROPPED = "dropped"  # no answer in time
REFUSED = "refused"
UNREACHABLE = "unreachable"  # nobody on the link has the address
CLOSED = "closed"  # the connection ended, by RST or otherwise, before an answer


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that reached a server; `client` is the address it came from. Header names are lower-case,
    repeated headers joined."""

    client: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)


class Web(ThreadingHTTPServer):
    """An HTTP server in a pod, for IPv4 and IPv6. Answers every request with 200 and `body`."""

    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, where: Namespace, port: int, body: bytes = b"") -> None:
        self.body = body
        self.seen: list[Seen] = []
        super().__init__(("::", port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = netns.run_in(where.path, lambda: self._listen(port))
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("::", port), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True)

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def clients(self) -> set[str]:
        """Addresses of everybody who got through."""
        return {each.client for each in list(self.seen)}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        client = self.client_address[0].removeprefix("::ffff:")
        headers = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
        self.server.seen.append(Seen(client, self.command, self.path, headers))
        self.send_response(200)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = _answer  # noqa: N815 - the names http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """`seen` is the record."""


class Line:
    """One TCP connection that is kept: `ask` never opens another."""

    def __init__(
        self, where: Namespace, ip: object, port: int, patience: float = PATIENCE, source: object = ""
    ) -> None:
        """From one of the addresses that the client has, if it is to be a certain one."""
        self._connection = http.client.HTTPConnection(str(ip), port, timeout=patience)
        self._connection.auto_open = 0
        own = (str(source), 0) if source else None
        self._connection.sock = netns.run_in(
            where.path, lambda: socket.create_connection((str(ip), port), timeout=patience, source_address=own)
        )

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        patience: float = PATIENCE,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """One request; after a failure the connection is of no use any more."""
        try:
            if self._connection.sock is not None:
                self._connection.sock.settimeout(patience)
            self._connection.request(method, path, headers=headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.read().decode())
        except TimeoutError:
            return Answer(0, failure=DROPPED)
        except (OSError, http.client.HTTPException):
            return Answer(0, failure=CLOSED)

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def fetch(
    where: Namespace, ip: object, port: int, path: str = "/", method: str = "GET", patience: float = PATIENCE
) -> str:
    """One request on a connection of its own; what came of it as text."""
    try:
        line = Line(where, ip, port, patience)
    except TimeoutError:
        return DROPPED
    except ConnectionError:
        return REFUSED
    except OSError as error:
        if error.errno != errno.EHOSTUNREACH:
            raise
        return UNREACHABLE
    with line:
        return str(line.ask(path, method, patience))


class LiveNode:
    """A playground with the article's pods and policies. `start_agent` makes it enforce them."""

    def __init__(self) -> None:
        name = f"{os.environ.get('PYTEST_XDIST_WORKER', 'e2e')}_{uuid.uuid4().hex[:6]}"
        # Short: the sockets' paths must fit into sun_path.
        self.folder = Path(tempfile.mkdtemp(prefix=f"lg-{name}-"))
        self.run_dir = self.folder / "run"
        self.policies = self.folder / "policies"
        self.policies.mkdir()
        self.workloads = self.folder / "workloads.yaml"
        self.log_path = self.folder / "agent.log"
        self.agent: subprocess.Popen[bytes] | None = None
        self.ground = Playground(name)
        self.node = self.ground.node
        self.webs: dict[str, Web] = {}
        try:
            self.frontend = self.ground.pod("frontend", labels={"app": "frontend", "role": "frontend"})
            self.intruder = self.ground.pod("intruder", labels={"app": "intruder"})
            self.backend = self.ground.pod("backend", labels={"app": "backend"})
            self.api = self.ground.pod("api-server", labels={"app": "api-server"})
            self.serve(self.backend, 8080)
            self.serve(self.api, 80)
            self.list_pods()
            self.write("allow-frontend-to-backend", (EXAMPLES / "allow-frontend-to-backend.yaml").read_text())
            self.write("api-access-control", (EXAMPLES / "api-access-control.yaml").read_text())
        except BaseException:
            self.close()
            raise

    def serve(self, pod: Pod, port: int) -> Web:
        """Starts a web server in `pod`."""
        self.webs[pod.name] = web = Web(pod, port)
        return web

    def web_at(self, where: Namespace, port: int) -> Web:
        """Starts a web server elsewhere; whoever asks for it lists it in `webs`."""
        return Web(where, port)

    def remove(self, pod: Pod) -> None:
        """Takes a pod away, and its server; the list still names it."""
        if pod.name in self.webs:
            self.webs.pop(pod.name).close()
        self.ground.remove(pod)

    def list_pods(self) -> None:
        """Writes the workloads file."""
        self.replace(self.workloads, self.ground.workloads_yaml())

    def write(self, name: str, text: str) -> Path:
        """Writes a policy file, as an editor does."""
        path = self.policies / f"{name}.yaml"
        self.replace(path, text)
        return path

    @staticmethod
    def replace(path: Path, text: str) -> None:
        """Puts a whole new file into place."""
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.replace(path)

    @property
    def settings(self) -> Settings:
        """Where the agent has its files."""
        return Settings(self.policies, self.workloads, run_dir=self.run_dir, state_dir=self.folder / "state")

    def command(self, *more: object, run_dir: Path | None = None) -> list[str]:
        """`lockgate agent run` for this node."""
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "run"]
        command += ["--policies", str(self.policies), "--workloads", str(self.workloads)]
        command += ["--run-dir", str(run_dir or self.run_dir), "--state-dir", str(self.folder / "state")]
        return [*command, *map(str, more)]

    def start_agent(self, *more: object, ready: bool = True) -> None:
        """Starts it; with `ready` waits until all is in force."""
        with self.log_path.open("ab") as log:
            self.agent = self.node.popen(self.command(*more), stdout=log, stderr=log, start_new_session=True)
        if ready:
            self.until("the agent is ready", self.ok)

    def end_agent(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends it a signal; its exit status."""
        assert self.agent is not None
        self.agent.send_signal(number)
        status = self.agent.wait(PATIENCE)
        self.agent = None
        return status

    def try_agent(self, *more: object, run_dir: Path | None = None, inside: tuple[str, ...] = ()) -> Ended:
        """Runs an agent that is expected to end by itself."""
        ended = self.node.run([*inside, *self.command(*more, run_dir=run_dir)])
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def clean(self, inside: tuple[str, ...] = ()) -> Ended:
        """`lockgate agent clean`."""
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "clean", "--run-dir", str(self.run_dir)]
        ended = self.node.run([*inside, *command])
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def lockgate(self, *arguments: object) -> Ended:
        """A command that asks the agent."""
        return lockgate(*arguments, "--run-dir", self.run_dir)

    def status(self) -> dict[str, Any]:
        """What `lockgate status` shows; empty when no agent answers."""
        try:
            answer: dict[str, Any] = ask(self.run_dir, "/v1/status")
        except UnreachableError:
            return {}
        return answer

    def ok(self) -> bool:
        """True when the agent is ready and has nothing to complain about."""
        return bool(self.status().get("ok"))

    def problems(self) -> list[str]:
        """The sentences in `lockgate status`."""
        return list(self.status().get("problems", ["no agent answers"]))

    def envoy_pid(self) -> int:
        """Of the Envoy that the supervisor runs."""
        return int(self.status()["envoy"]["pid"])

    def supervisor_pid(self) -> int:
        """Of Envoy's supervisor, also when no agent runs."""
        return int(json.loads((self.run_dir / "envoy.json").read_text())["supervisor_pid"])

    def stat(self, pattern: str) -> int:
        """The sum of Envoy's counters whose names match."""
        answer = self.lockgate("envoy", "stats", "-f", pattern, "-o", "json")
        return sum(value for value in answer.data.values() if isinstance(value, int))

    @property
    def log(self) -> str:
        """The agents' log, of all that ran here."""
        return self.log_path.read_text(errors="replace")

    def until(self, what: str, true: Callable[[], T], patience: float = PATIENCE) -> T:
        """Polls until `true()` is; fails with the agent's last words."""
        deadline = time.monotonic() + patience
        while not (value := true()):
            if self.agent is not None and self.agent.poll() is not None:
                raise AssertionError(f"the agent ended with {self.agent.returncode} before {what}\n{self.evidence()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {patience:.0f} s in vain until {what}\n{self.evidence()}")
            time.sleep(0.01)
        return value

    def becomes(self, outcome: str, ask: Callable[[], object]) -> None:
        """Polls until `str(ask())` is `outcome`."""
        last = ""

        def arrived() -> bool:
            nonlocal last
            last = str(ask())
            return last == outcome

        try:
            self.until(f"the answer is {outcome}", arrived)
        except AssertionError as error:
            raise AssertionError(f"the last answer was {last}; {error}") from None

    def evidence(self) -> str:
        """What a failed test should show."""
        lines = ["problems: " + "; ".join(self.problems()), "agent's log:", *self.log.splitlines()[-25:]]
        with suppress(OSError):
            lines += ["Envoy's log:", *(self.run_dir / "envoy.log").read_text(errors="replace").splitlines()[-10:]]
        return "\n".join(lines)

    def close(self) -> None:
        """Takes everything away, whatever state it is in."""
        for web in self.webs.values():
            web.close()
        if self.agent is not None:
            self.end_agent(signal.SIGKILL)
        cleaned = self.clean() if self.run_dir.exists() else None
        self.ground.close()
        shutil.rmtree(self.folder)
        assert cleaned is None or cleaned.status == 0, cleaned


@contextmanager
def live_node(start: bool = True) -> Iterator[LiveNode]:
    """A node for one module or test."""
    node = LiveNode()
    try:
        if start:
            node.start_agent()
        yield node
    finally:
        node.close()
