"""A node on which one example after the other is enforced, and real traffic for the flows of their tests.

The pods are made once. An example's workloads are put on them by its workloads file, so that going from one example to
the next is what it is for a user: two files change. Addresses that are no workload's live in one more namespace behind
the node, which the agent does not know.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Playground, Pod
from lockgate.agent.policy_tests import LoadedTest
from lockgate.policies import HttpRequest, KafkaRequest, Protocol, TlsRequest, World, explain
from lockgate.policies.policy_test import Case
from lockgate.policies.workload import IPAddress, Workload
from lockgate.tests.e2e.example_attempt import Attempt, Place

PATIENCE = 15.0  # for what must come
GLANCE = 0.5  # for what must not come; less than the second after which a SYN is sent again
_STRANGERS = (ip_address("100.64.0.9"), ip_address("2001:db8:ffff::9"))  # who is meant by reserved:world
_POLICIES_OF_THE_NODE = "policies"


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
