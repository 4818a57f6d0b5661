"""A node whose agent is of an older commit, or of this one: scripts/upgrade-from REVISION says which is older."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Pod
from lockgate.tests.e2e.container_ground import Ground, container_ground
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, Web, fetch
from lockgate.tests.e2e.load import PATIENCE, Kept, Load
from lockgate.tests.e2e.published.ground import HTTP, NODE, PEER, PLAIN, POLICY, RULES, published

HERE = sys.executable
PEERS = {"web": "fromEndpoints: [{matchLabels: {app: asks}}]", "published": PEER}
PEERS["within"] = PEERS["web"]


def policy(name: str) -> str:
    """Port 8081 is open to the peer, port 8080 for one path."""
    subject = "web" if name == "web" else "published"
    text = POLICY.replace("app: published", f"app: {subject}").replace("name: published", f"name: {name}")
    return text.replace("PEER", PEERS[name]).replace("RULES", RULES)


@pytest.fixture(scope="session")
def older() -> str:
    """The Python of the older environment."""
    return os.environ["LOCKGATE_OLDER"]


class Mixed:
    """A pod and a container that serve, and who asks them; agents of two versions, one at a time."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.node = ground, ground.node
        self.web, self.asks, self.stranger = (self._pod(name) for name in ("web", "asks", "stranger"))
        self.node.serve(self.web, 8080)
        self.plain = Web(self.web, 8081)
        self.node.list_pods()
        for name in PEERS:
            self.node.write(name, policy(name))
        self._command = self.node.command

    def _pod(self, name: str) -> Pod:
        return self.node.ground.pod(name, labels={"app": name})

    def start(self, python: str) -> None:
        """That version's agent, when all is in force. Raises AssertionError when it ends before."""
        self.node.command = lambda *more, run_dir=None: [python, *self._command(*more, run_dir=run_dir)[1:]]  # type: ignore[method-assign]
        self.ground.start_agent()

    def make_containers(self) -> None:
        """One with published ports, and one on another network, which comes with the node's address."""
        engine = self.ground.engine
        self.ground.serve(engine.container("published", "--label", "app=published", *published()))
        engine.docker("network", "create", "--subnet", "10.79.0.0/24", "beyond")
        self.beyond = engine.container("beyond", "--network", "beyond", "--label", "app=asks")
        for name in ("published", "beyond"):
            self.ground.known(f"default/{name}")
        engine.run(["iptables", "-I", "DOCKER-USER", "-j", "ACCEPT"])  # the engine's networks may meet

    def expected(self) -> dict[str, str]:
        """What each kind of `load` gets."""
        ends = {"denied": DENIED, "stranger": DROPPED}
        return {kind: next((ends[end] for end in ends if end in kind), OK) for kind in self.kinds()}

    def kinds(self) -> dict[str, partial[str]]:
        outside, beyond = self.node.ground.outside(), cast(Namespace, self.beyond)
        pod = str(self.web.ipv4)
        ways = {"pod": (self.asks, pod, 8080, 8081), "published": (outside, NODE, HTTP, PLAIN)}
        ways |= {"masqueraded": (beyond, NODE, HTTP, PLAIN)}
        found = {}
        for way, (client, ip, http, plain) in ways.items():
            patience = 3 * GLANCE if way == "masqueraded" else PATIENCE
            found[f"{way}, by request"] = partial(fetch, client, ip, http, "/open", patience=patience)
            found[f"{way}, by request, denied"] = partial(fetch, client, ip, http, "/shut", patience=patience)
            found[f"{way}, past Envoy"] = partial(fetch, client, ip, plain, "/any", patience=patience)
        for port in (8080, 8081):
            found[f"stranger, {port}"] = partial(fetch, self.stranger, pod, port, "/open", patience=GLANCE)
        return found

    @contextmanager
    def load(self) -> Iterator[Load]:
        """All of it at once, and connections that are kept."""
        outside, pod = self.node.ground.outside(), str(self.web.ipv4)
        kept = {
            "pod, by request, kept": Kept(self.asks, pod, "/open", 8080),
            "pod, past Envoy, kept": Kept(self.asks, pod, "/any", 8081),
            "published, by request, kept": Kept(outside, NODE, "/open", HTTP),
            "published, past Envoy, kept": Kept(outside, NODE, "/any", PLAIN),
        }
        try:
            with Load({**self.kinds(), **{kind: each.ask for kind, each in kept.items()}}) as load:
                yield load
        finally:
            for each in kept.values():
                each.close()


@pytest.fixture
def mixed() -> Iterator[Mixed]:
    with container_ground("docker") as ground:
        made = Mixed(ground)
        with closing(made.plain):
            yield made
            assert str(made.stranger.ipv4) not in made.plain.clients() | made.node.webs["web"].clients()
