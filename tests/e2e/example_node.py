"""A node on which one example after the other is enforced, and real traffic for the flows of their tests.

The pods are made once. An example's workloads are put on them by its workloads file, so that going from one example to
the next is what it is for a user: two files change. Addresses that are no workload's live in one more namespace behind
the node, which the agent does not know.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import yaml
from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Namespace, Playground, Pod
from lockgate.agent.policy_tests import LoadedTest
from lockgate.policies import Flow, HttpRequest, KafkaRequest, Protocol, TlsRequest, Verdict, World, explain
from lockgate.policies.policy_test import Case
from lockgate.policies.tls_secret import TRUSTED_CA, TlsMaterial, TlsSide
from lockgate.policies.workload import IPAddress, Workload
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e import kafka_frames
from lockgate.tests.e2e.tls_pods import Authority

PATIENCE = 15.0  # for what must come
GLANCE = 0.5  # for what must not come; less than the second after which a SYN is sent again
_STRANGERS = (ip_address("100.64.0.9"), ip_address("2001:db8:ffff::9"))  # who is meant by reserved:world
_GOT = b"x-got"
_POLICIES_OF_THE_NODE = "policies"


@dataclass(frozen=True, slots=True)
class Place:
    """An address and the namespace it belongs to. `name` is how its server calls itself."""

    name: str
    where: Namespace
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Outcome:
    """`kind`: answered, connected (no request was to be made), denied (by Envoy), dropped, refused or closed."""

    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One flow between two addresses, to a port of the server's. `called` is the address and port that the client asks
    for, when those are a service's."""

    case: Case
    client: Place
    server: Place
    port: int
    called: tuple[IPAddress, int] | None = None

    @property
    def target(self) -> tuple[str, int]:
        """What the client connects to."""
        address, port = self.called or (self.server.address, self.port)
        return str(address), port

    @property
    def encrypted(self) -> bool:
        """True when the client speaks TLS."""
        request = self.case.flow.request
        return isinstance(request, HttpRequest | TlsRequest) and request.encrypted

    @property
    def kafka(self) -> KafkaRequest | None:
        """The request of a Kafka client."""
        request = self.case.flow.request
        return request if isinstance(request, KafkaRequest) else None

    @property
    def server_name(self) -> str:
        """What a TLS client calls the server; empty when it does not."""
        request = self.case.flow.request
        return request.server_name if isinstance(request, HttpRequest | TlsRequest) else ""

    def __str__(self) -> str:
        return f"{self.case.name} ({self.client.address} -> {self.server.address} port {self.port})"


class ExampleNode:
    """A node with `size` pods and an agent. Use `example_node` to get one."""

    def __init__(self, ground: Playground, folder: Path, size: int) -> None:
        self._ground = ground
        self.folder = folder
        self._pods = [ground.pod(f"p{number}") for number in range(size)]
        self._outside = ground.pod("outside")
        self._policies = folder / _POLICIES_OF_THE_NODE
        self._policies.mkdir()
        self._workloads = folder / "workloads.yaml"
        self._workloads.write_text("workloads: []\n")
        self._agent: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """`lockgate agent run`, as a user would."""
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "run"]
        command += ["--policies", str(self._policies), "--workloads", str(self._workloads)]
        command += ["--run-dir", str(self.folder), "--state-dir", str(self.folder / "state")]
        with (self.folder / "agent.log").open("w") as log:
            self._agent = self._ground.node.popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._wait_until("the agent is ready", lambda: ask(self.folder, "/v1/status")["ok"])

    def stop(self) -> None:
        """End the agent and take away what it made."""
        if self._agent is not None:
            self._agent.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._agent.wait(PATIENCE)
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "clean", "--run-dir", str(self.folder)]
        cleaned = self._ground.node.run(command)
        assert cleaned.returncode == 0, cleaned.stderr

    def enforce(self, policies: Iterable[Path], loaded: LoadedTest) -> dict[str, tuple[Place, ...]]:
        """Put an example into force; where its workloads are, by namespace/name."""
        assert loaded.world is not None, loaded.problems
        endpoints = loaded.world.endpoints
        places: dict[str, tuple[Place, ...]] = {}
        entries = []
        for endpoint, pod in zip(endpoints, self._pods, strict=False):
            workload = endpoint.workload
            for address in workload.ips:
                self._settle(pod, address)
            addresses = workload.ips or pod.ips
            places[endpoint.key] = tuple(Place(endpoint.key, pod, address) for address in addresses)
            entries.append(_entry(workload, pod, addresses))
        assert len(entries) == len(endpoints), f"the node has only {len(self._pods)} pods"
        wanted = {path.name: path.read_bytes() for path in policies}
        services = yaml.load(Path(loaded.test.source).read_bytes(), yaml.CSafeLoader).get("services", [])
        self._workloads.write_text(yaml.safe_dump({"workloads": entries, "services": services}))
        for name, content in wanted.items():
            (self._policies / name).write_bytes(content)
        for path in self._policies.iterdir():
            if path.name not in wanted:
                path.unlink()
        self._wait_until("the example is in force", partial(self._in_force, loaded.world, places))
        return places

    def attempts(self, cases: Iterable[Case], places: dict[str, tuple[Place, ...]], world: World) -> list[Attempt]:
        """Each case by every address family that both ends have; none for who is not on a node."""
        found = []
        for case in cases:
            assert case.flow.protocol in (Protocol.TCP, Protocol.UDP), f"{case.name}: no client speaks it here"
            assert isinstance(case.flow.request, HttpRequest | KafkaRequest | TlsRequest | None), (
                f"{case.name}: no client speaks it here"
            )
            clients = self._places(case.flow.source, places, world)
            if explanation := explain(world, case.flow).backends:
                (backend,) = (each.backend for each in explanation)  # which of several gets it nobody could say
                servers, port = self._places(str(backend.ip), places, world), backend.port
                called = (ip_address(case.flow.destination), case.flow.port)
            else:
                servers, port, called = self._places(case.flow.destination, places, world), case.flow.port, None
            pairs = [(one, two) for one in clients for two in servers if one.address.version == two.address.version]
            found += [Attempt(case, client, server, port, called) for client, server in pairs]
        return found

    def _places(self, name: str, places: dict[str, tuple[Place, ...]], world: World) -> tuple[Place, ...]:
        if name.startswith("reserved:"):
            if name == "reserved:host":
                return tuple(Place(name, self._ground.node, address) for address in (NODE_IPV4, NODE_IPV6))
            return tuple(map(self._stranger, _STRANGERS)) if name == "reserved:world" else ()
        try:
            address = ip_address(name)
        except ValueError:
            return next(places[key] for key in places if name in (key, key.rpartition("/")[2]))
        for endpoint in world.endpoints:
            if address in endpoint.ips:
                return tuple(place for place in places[endpoint.key] if place.address == address)
        return (self._stranger(address),)

    def _stranger(self, address: IPAddress) -> Place:
        self._settle(self._outside, address)
        return Place(str(address), self._outside, address)

    def _settle(self, pod: Pod, address: IPAddress) -> None:
        """Give the pod one more address, and the way there."""
        family, prefix = ("-6", f"{address}/128") if address.version == 6 else ("-4", f"{address}/32")
        here = pod.run(["ip", family, "addr", "replace", prefix, "dev", "eth0"])
        there = self._ground.node.run(["ip", family, "route", "replace", prefix, "dev", pod.interface])
        assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr

    def _in_force(self, world: World, places: dict[str, tuple[Place, ...]]) -> bool:
        """True when the agent enforces exactly these policies on exactly these endpoints, and has no complaint."""
        endpoints = {entry["endpoint"]: entry for entry in ask(self.folder, "/v1/endpoints")}
        if endpoints.keys() != places.keys():
            return False
        for endpoint in world.endpoints:
            entry = endpoints[endpoint.key]
            if entry["identity"] != endpoint.identity:
                return False
            if [str(place.address) for place in places[endpoint.key]] != entry["ips"]:
                return False
        enforced = {(entry["kind"], entry["policy"]): entry for entry in ask(self.folder, "/v1/policies")}
        if enforced.keys() != {(str(policy.key.kind), str(policy.key)) for policy in world.policies}:
            return False
        selected: dict[tuple[str, str], list[str]] = {key: [] for key in enforced}
        selectable = [(endpoint.key, endpoint) for endpoint in world.endpoints]
        for name, endpoint in [*selectable, *([("reserved:host", world.host)] if world.host is not None else [])]:
            for policy in world.policies_of(endpoint):
                selected[str(policy.key.kind), str(policy.key)].append(name)
        if any(sorted(entry["endpoints"]) != sorted(selected[key]) for key, entry in enforced.items()):
            return False
        return all(entry["state"] == "enforced" for entry in enforced.values()) and ask(self.folder, "/v1/status")["ok"]

    def _wait_until(self, what: str, true: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self._agent is not None
            assert self._agent.poll() is None, f"the agent has ended:\n{self._tail()}"
            with suppress(UnreachableError):
                if true():
                    return
            time.sleep(0.02)
        raise AssertionError(f"waited in vain until {what}:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join((self.folder / "agent.log").read_text(errors="replace").splitlines()[-20:])


@contextmanager
def example_node(name: str, size: int) -> Iterator[ExampleNode]:
    """A node with its agent running; gone afterwards."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"lockgate-{name}-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        ground = stack.enter_context(Playground(f"{name}_{os.getpid()}"))
        node = ExampleNode(ground, folder, size)
        stack.callback(node.stop)
        node.start()
        yield node


def _entry(workload: Workload, pod: Pod, addresses: Iterable[IPAddress]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": workload.name, "namespace": workload.namespace, "netns": pod.netns}
    entry |= {"labels": dict(workload.labels), "ips": [str(address) for address in addresses]}
    if workload.ports:
        entry["ports"] = dict(workload.ports)
    return entry


class Servers:
    """Something that answers at every address and port the attempts go to; `seen` is who got there, by (ip, port).

    Where TLS arrives at it the server speaks it, with a certificate for every name that it is called by, or that of the
    policies' own Secret; `client` trusts it.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.client = ssl.create_default_context()
        self._folder = folder
        self._world = world
        self._stack = ExitStack()
        self._answering: set[asyncio.Task[Any]] = set()

    async def open(self, attempts: Iterable[Attempt]) -> None:
        attempts = tuple(attempts)
        loop = asyncio.get_running_loop()
        wanted = {(each.server, each.port, each.case.flow.protocol) for each in attempts}
        encrypted = {(each.server, each.port) for each in attempts if self._arrives_encrypted(each)}
        shown = self._certificate(attempts) if any(each.encrypted for each in attempts) or encrypted else None
        kafka = {(each.server, each.port) for each in attempts if each.kafka}
        for place, port, protocol in wanted:
            kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
            bound = netns.run_in(place.where.path, partial(_bound, place.address, port, kind))
            if kind == socket.SOCK_DGRAM:
                transport, _ = await loop.create_datagram_endpoint(partial(_Echo, place.name, self.seen), sock=bound)
                self._stack.callback(transport.close)
            else:
                context = shown if (place, port) in encrypted else None
                answer = self._answer_kafka if (place, port) in kafka else self._answer
                server = await asyncio.start_server(partial(answer, place.name), sock=bound, ssl=context)
                self._stack.callback(server.close)

    def _certificate(self, attempts: Iterable[Attempt]) -> ssl.SSLContext:
        authority = Authority("example")
        names = {name for each in attempts for name in (each.server_name, str(each.server.address)) if name}
        file = self._folder / "server.pem"
        file.touch(0o600)
        file.write_bytes(b"".join(authority.issue(*sorted(names))))
        self.client.load_verify_locations(cadata=authority.pem.decode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for known in self._materials():
            self.client.load_verify_locations(cadata=known.trusted_ca.decode())
            if known.certificate:
                file.write_bytes(known.certificate + known.private_key)
        context.load_cert_chain(file)
        return context

    def _materials(self) -> list[TlsMaterial]:
        """Of the policies' own TLS contexts that have an authority, which clients are to trust."""
        return [
            self._world.tls.material(side, replace(context, trusted_ca=TRUSTED_CA))
            for policy in self._world.policies
            for rule in policy.rules
            for entry in (*rule.ingress, *rule.egress)
            for ports in entry.ports or ()
            if ports.tls is not None
            for side, context in (
                (TlsSide.TERMINATING, ports.tls.terminating),
                (TlsSide.ORIGINATING, ports.tls.originating),
            )
            if context is not None
        ]

    def _arrives_encrypted(self, each: Attempt) -> bool:
        explanation = explain(self._world, each.case.flow)
        if explanation.verdict is not Verdict.ALLOW:
            return False
        encrypted = each.encrypted
        for side in (explanation.egress, explanation.ingress):
            if side is not None and side.interception is not None:
                encrypted = side.interception.originating is not None
        return encrypted

    async def close(self) -> None:
        self._stack.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """HTTP without bodies: a request is answered with the server's name and the client's address, and in a header
        with the headers that it got."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        address, port = writer.get_extra_info("peername")[:2]
        self.seen.add((address, port))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = f"{name} to {address}".encode()
                got = json.dumps(_headers(head)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\n%s: %s\r\nContent-Length: %d\r\n\r\n" % (_GOT, got, len(body)))
                writer.write(b"" if head.startswith(b"HEAD ") else body)
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._answering.discard(task)
            writer.transport.abort()

    async def _answer_kafka(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every request is answered with the server's name and the client's address."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        address, port = writer.get_extra_info("peername")[:2]
        self.seen.add((address, port))
        try:
            while True:
                payload = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
                writer.write(kafka_frames.answer(payload, f"{name} to {address}".encode()))
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._answering.discard(task)
            writer.transport.abort()


class _Echo(asyncio.DatagramProtocol):
    def __init__(self, name: str, seen: set[tuple[str, int]]) -> None:
        self._name = name
        self._seen = seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._seen.add((addr[0], addr[1]))
        self._transport.sendto(f"{self._name} to {addr[0]}".encode(), addr)


def _bound(address: IPAddress, port: int, kind: socket.SocketKind) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, kind)
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((str(address), port))
    return bound


async def attempt(each: Attempt, servers: Servers, patience: float, connect_only: bool = False) -> Outcome:
    """Make the flow happen. An answer counts only when it is the server's own, given to the client's own address."""
    flow = each.case.flow
    udp = flow.protocol is Protocol.UDP
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    connection = netns.run_in(each.client.where.path, partial(_bound, each.client.address, 0, kind))
    own = connection.getsockname()[:2]
    loop = asyncio.get_running_loop()
    target = each.target
    try:
        await asyncio.wait_for(loop.sock_connect(connection, target), patience)
        if udp:
            await loop.sock_sendall(connection, b"ping")
            answer = await asyncio.wait_for(loop.sock_recv(connection, 2048), patience)
            return _answered(each, answer.decode())
        if connect_only:
            return Outcome("connected")
        if each.encrypted:
            return await asyncio.wait_for(_encrypted(each, connection, servers.client), patience)
        if each.kafka:
            return await asyncio.wait_for(_kafka(each, each.kafka, connection), patience)
        await loop.sock_sendall(connection, _request(flow, each.server.address))
        return _outcome(each, await asyncio.wait_for(_receive(loop, connection, _method(flow)), patience))
    except TimeoutError:
        return Outcome("reached the server, but nothing came back" if own in servers.seen else "dropped")
    except ConnectionRefusedError as error:
        return Outcome("refused", str(error))
    except OSError as error:
        return Outcome("closed", str(error))
    finally:
        connection.close()


async def _kafka(each: Attempt, asked: KafkaRequest, connection: socket.socket) -> Outcome:
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        writer.write(kafka_frames.request(asked))
        payload = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
    except asyncio.IncompleteReadError as error:
        return Outcome("closed", str(error))
    finally:
        writer.transport.abort()
    by_server = f"{each.server.name} to {each.client.address}".encode()
    return Outcome("answered") if payload.endswith(by_server) else Outcome("denied", repr(payload))


async def _encrypted(each: Attempt, connection: socket.socket, context: ssl.SSLContext) -> Outcome:
    """The same in TLS. A client that has only an address sends no server name."""
    flow, called = each.case.flow, each.server_name or str(each.server.address)
    reader, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname=called)
    try:
        writer.write(_request(flow, each.server.address))
        head = await reader.readuntil(b"\r\n\r\n")
        return _outcome(each, head + await reader.readexactly(_length(head) - len(head)))
    except asyncio.IncompleteReadError as error:
        return Outcome("closed", str(error))
    finally:
        writer.transport.abort()


async def _receive(loop: asyncio.AbstractEventLoop, connection: socket.socket, method: str) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received or (method != "HEAD" and len(received) < _length(received)):
        data = await loop.sock_recv(connection, 65536)
        if not data:
            break
        received += data
    return received


def _headers(head: bytes) -> dict[str, str]:
    """By lower-case name, repeated ones joined."""
    found: dict[str, str] = {}
    for line in head.decode().split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            key, value = name.lower(), value.strip()
            found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _length(received: bytes) -> int:
    head, _, _ = received.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    body = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
    return len(head) + 4 + body


def _method(flow: Flow) -> str:
    return flow.request.method if isinstance(flow.request, HttpRequest) else "GET"


def _request(flow: Flow, address: IPAddress) -> bytes:
    wanted = flow.request if isinstance(flow.request, HttpRequest) else HttpRequest("GET", "/")
    host = wanted.host or (f"[{address}]" if address.version == 6 else str(address))
    headers = {"host": host, "content-length": "0", **wanted.headers}
    lines = [f"{wanted.method} {wanted.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _outcome(each: Attempt, received: bytes) -> Outcome:
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status == [b"403"] and body == b"Access denied\r\n":
        return Outcome("denied")
    if b"\r\ngrpc-status: 7\r\ngrpc-message: Access denied\r\n" in head + b"\r\n":
        return Outcome("denied")
    if status == [b"200"]:
        got: dict[str, str] = json.loads(_headers(head)[_GOT.decode()])
        for name, value in each.case.arrives:
            if got.get(name) != value:
                return Outcome("answered wrongly", f"{name} arrived as {got.get(name)}")
        return Outcome("answered") if _method(each.case.flow) == "HEAD" else _answered(each, body.decode())
    return Outcome("closed", received.decode(errors="replace"))


def _answered(each: Attempt, text: str) -> Outcome:
    wanted = f"{each.server.name} to {each.client.address}"
    return Outcome("answered") if text == wanted else Outcome("answered wrongly", f"'{text}', not '{wanted}'")
