"""Whether the data path works on this machine: real packets between two throw-away namespaces, through a real agent.

    client ──▶ L4 rule ──▶ server :8081      straight on in the kernel
    client ──▶ L7 rule ──▶ server :8080      by Envoy, which asks the server with the client's own address
    client ──▶ no rule ──▶ server :8082      dropped
    client, as somebody else ──▶ server      dropped

Each for IPv4 and IPv6. Everything is under one name (see `demo.site`): the next run cleans up after a killed one.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ...policies.workload import IPAddress
from ...redirect.kernel import netns
from ..demo.site import Site
from ..errors import AlreadyRunningError, UnreachableError
from ..inspection.client import ask
from ..playground import Playground, Pod
from .check import Check, State

DEFAULT_NAME = "doctor"
GROUP = "probe"
_READY_SECONDS = 120.0
_ANSWER_SECONDS = 5.0  # for what must come
_SILENCE_SECONDS = 1.0  # for what must not come
_BY_REQUEST, _STRAIGHT, _CLOSED = 8080, 8081, 8082
_STRANGERS = {4: ip_address("10.200.77.77"), 6: ip_address("fd00:200::7777")}
_IP_TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
_POLICY = f"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: probe, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: server}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: client}}}}]
    toPorts:
    - ports: [{{port: "{_BY_REQUEST}", protocol: TCP}}]
      rules: {{http: [{{path: /open}}]}}
    - ports: [{{port: "{_STRAIGHT}", protocol: ANY}}]
"""


@dataclass(frozen=True, slots=True)
class _Leg:
    """One way through the data path: what is tried, what must come of it, and what to look at when it does not."""

    name: str
    happens: Callable[[_Ground, int], str]
    wanted: str
    advice: str


def probe(name: str = DEFAULT_NAME) -> Iterator[Check]:
    """One check for each leg, each as soon as it is known. Takes some seconds; leaves nothing behind."""
    site = Site(name, "datapath doctor")
    try:
        with site.taken():
            site.clean(lambda _: None)
            try:
                yield from _walk(site)
            finally:
                site.clean(lambda _: None)
    except AlreadyRunningError as error:
        yield Check(GROUP, "all", State.FAIL, "not tried", str(error))


def _walk(site: Site) -> Iterator[Check]:
    with ExitStack() as stack:
        try:
            ground = stack.enter_context(_Ground(site))
        except (OSError, RuntimeError) as error:
            advice = "run it as root, where network namespaces and veths can be made"
            yield Check(GROUP, "namespaces", State.FAIL, str(error), advice)
            return
        for family in (4, 6):
            yield _tried(ground, _UNPOLICED, family)
        problem = ground.start_agent()
        if problem:
            yield Check(GROUP, "agent", State.FAIL, problem, "mend what it says")
            return
        yield Check(GROUP, "agent", State.OK, "ready")
        for leg in _LEGS:
            for family in (4, 6):
                yield _tried(ground, leg, family)


def _tried(ground: _Ground, leg: _Leg, family: int) -> Check:
    happened = leg.happens(ground, family)
    well = happened == leg.wanted
    found = happened if well else f"{happened}, not {leg.wanted}; the kernel counted {ground.counted()}"
    return Check(GROUP, f"{leg.name}, IPv{family}", State.OK if well else State.FAIL, found, "" if well else leg.advice)


class _Ground:
    """Two pods with a server in one, and an agent when it is asked for."""

    def __init__(self, site: Site) -> None:
        self._directory = site.directory
        self._directory.mkdir(mode=0o700)
        self._playground = Playground(site.name)
        self._listening: list[socket.socket] = []
        self.heard: list[str] = []  # addresses that the server heard from
        self.client = self._playground.pod("client", labels={"app": "client"})
        self.server = self._playground.pod("server", labels={"app": "server"})
        for port in (_BY_REQUEST, _STRAIGHT, _CLOSED):
            self._serve(port)

    def __enter__(self) -> _Ground:
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listening:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, port: int) -> None:
        def listen() -> tuple[socket.socket, socket.socket]:
            stream = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            datagram.bind(("::", port))
            return stream, datagram

        stream, datagram = netns.run_in(self.server.path, listen)
        self._listening += [stream, datagram]
        threading.Thread(target=self._answer, args=(stream,), daemon=True).start()
        threading.Thread(target=self._hear, args=(datagram,), daemon=True).start()

    def _answer(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, (host, *_) = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(_ANSWER_SECONDS)
                    if connection.recv(4096):
                        self.heard.append(host.removeprefix("::ffff:"))
                        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    def _hear(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                _, address = listener.recvfrom(64)
                if address is None:
                    return  # shut down
                self.heard.append(str(address[0]).removeprefix("::ffff:"))

    def start_agent(self) -> str:
        """Starts one and waits until it is ready; else what it said."""
        policies, workloads = self._directory / "policies.yaml", self._directory / "workloads.yaml"
        policies.write_text(_POLICY)
        workloads.write_text(self._playground.workloads_yaml())
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "run", "--policies", str(policies)]
        command += ["--workloads", str(workloads), "--run-dir", str(self._directory)]
        command += ["--state-dir", str(self._directory / "state")]
        log = self._directory / "agent.log"
        with log.open("wb") as file:
            agent = self._playground.node.popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and agent.poll() is None:
            with suppress(UnreachableError):
                if ask(self._directory, "/v1/status")["ok"]:
                    return ""
            time.sleep(0.05)
        return _last_line(log) or f"not ready within {_READY_SECONDS:.0f} s"

    def counted(self) -> str:
        """Why packets were dropped here."""
        try:
            counters = ask(self._directory, "/v1/datapath")["counters"]
        except UnreachableError:
            return "nothing, for no agent runs"
        counts = [f"{each['packets']} {each['reason']} ({each['direction']})" for each in counters if each["packets"]]
        return ", ".join(counts) or "nothing"

    def ask(self, family: int, port: int, path: str, patience: float = _ANSWER_SECONDS) -> str:
        """A request of the client's: the status and whom the server heard, or how it failed."""
        address = str(_of(self.server, family))
        self.heard.clear()
        connection = http.client.HTTPConnection(address, port, timeout=patience)
        try:
            connection.sock = netns.run_in(
                self.client.path, lambda: socket.create_connection((address, port), patience)
            )
            connection.request("GET", path)
            status = connection.getresponse().status
        except TimeoutError:
            return "dropped"
        except (OSError, http.client.HTTPException) as error:
            return f"failed ({error})"
        finally:
            connection.close()
        heard = {str(_of(self.client, family)): "from the client"}
        return f"{status} {', '.join(heard.get(each, f'from {each}') for each in self.heard)}".strip()

    def send_as(self, family: int, source: IPAddress) -> str:
        """A datagram of the client's with this source."""
        server = str(_of(self.server, family))

        def send() -> None:
            kind = socket.AF_INET if family == 4 else socket.AF_INET6
            with socket.socket(kind, socket.SOCK_DGRAM) as made:
                made.setsockopt(*_IP_TRANSPARENT[family], 1)
                made.bind((str(source), 0))
                made.sendto(b"probe", (server, _STRAIGHT))

        self.heard.clear()
        netns.run_in(self.client.path, send)
        genuine = source == _of(self.client, family)
        deadline = time.monotonic() + (_ANSWER_SECONDS if genuine else _SILENCE_SECONDS)
        while time.monotonic() < deadline and not self.heard:
            time.sleep(0.01)
        return "arrived" if str(source) in self.heard else "dropped"


def _spoof(ground: _Ground, family: int) -> str:
    genuine = ground.send_as(family, _of(ground.client, family))
    return f"{ground.send_as(family, _STRANGERS[family])}, its own {genuine}"


_HOOKS = "another program at the pods' interfaces or a firewall of the node may be in the way; see the group 'others'"
_UNPOLICED = _Leg(
    "unpoliced",
    lambda ground, family: ground.ask(family, _STRAIGHT, "/"),
    "200 from the client",
    "the kernel does not forward between two veths here: look at net.ipv4.ip_forward, net.ipv6.conf.all.forwarding",
)
_LEGS = (
    _Leg("straight on", lambda ground, family: ground.ask(family, _STRAIGHT, "/"), "200 from the client", _HOOKS),
    _Leg(
        "no rule",
        lambda ground, family: ground.ask(family, _CLOSED, "/", _SILENCE_SECONDS),
        "dropped",
        "the programs are attached and do not see packets: the kernel's TCX does not work",
    ),
    _Leg(
        "by Envoy, with the client's address",
        lambda ground, family: ground.ask(family, _BY_REQUEST, "/open"),
        "200 from the client",
        f"the redirect (bpf_sk_assign, rule and route of mark 0x200) or Envoy's way to the server fails; {_HOOKS}",
    ),
    _Leg(
        "denied by Envoy",
        lambda ground, family: ground.ask(family, _BY_REQUEST, "/shut"),
        "403",
        "requests do not pass Envoy, or it has no policy: 'lockgate xds status'",
    ),
    _Leg(
        "as somebody else",
        _spoof,
        "dropped, its own arrived",
        "pods can send from others' addresses: the programs do not see what pods send",
    ),
)


def _of(pod: Pod, family: int) -> IPv4Address | IPv6Address:
    return pod.ipv4 if family == 4 else pod.ipv6


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""
