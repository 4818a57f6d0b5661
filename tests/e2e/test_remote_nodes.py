"""Remote Envoys of a real agent: each has its own policies, and none can hold up another or the agent's node."""

from __future__ import annotations

import signal
import stat
import time
from collections.abc import Iterator

import pytest
import yaml
from lockgate.agent.playground import NODE_IPV4
from lockgate.tests.command_line import lockgate
from lockgate.tests.e2e.live_node import CLOSED, DENIED, OK, LiveNode, fetch
from lockgate.tests.e2e.remote_edge import PORT, Edge, serial_in, shake_hands
from lockgate.tests.e2e.test_effect import metrics
from lockgate.tests.unit.agent.test_metrics import samples

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME}
spec:
  endpointSelector: {matchLabels: {app: APP}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: frontend}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: "PATH"}]}}]
"""
LACKING = "envoy.filters.http/envoy.filters.http.header_mutation"  # what the Envoy of edge-2 cannot do
BOTH = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: both}
spec:
  endpointSelector: {matchExpressions: [{key: app, operator: In, values: [edge-1, edge-2]}]}
  ingress:
  - fromEndpoints: [{matchLabels: {role: frontend}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: /both/new, headerMatches: [{name: x-a, value: b, mismatch: ADD}]}]}
"""
BOTH_BEFORE = BOTH.partition("      rules:")[0] + "      rules: {http: [{path: /both/old}]}\n"
ADMIN_PORT = 15009
PLACE = "spec.ingress[0].toPorts[0].rules.http[0].headerMatches"


class Ground:
    """An agent's node and two remote machines."""

    def __init__(self, node: LiveNode) -> None:
        self.node = node
        self.pki = node.folder / "pki"
        self.one, self.two = Edge(node, "edge-1"), Edge(node, "edge-2")
        self.labels = {"app": "frontend", "role": "frontend"}
        self.list_all()
        for edge, path in ((self.one, "/one"), (self.two, "/two")):
            self.allow(edge, path)
        self.certificate("authority", "--output", self.pki)
        self.certificate("server", "--host", NODE_IPV4, *self.signed)
        for name in ("edge-1", "edge-2"):
            self.certificate("node", name, *self.signed)
        config = {
            "address": str(NODE_IPV4),
            "port": PORT,
            "authority": str(self.pki / "ca.pem"),
            "certificate": str(self.pki / "server.pem"),
            "key": str(self.pki / "server.key"),
            "nodes": ["edge-1", "edge-2"],
            "admin": {"edge-1": f"{self.one.ips[0]}:{ADMIN_PORT}"},
        }
        self.config = node.folder / "config.yaml"
        self.config.write_text(yaml.safe_dump({"remote": config}))
        self.one.configure(self.pki, admin_port=ADMIN_PORT)
        self.two.configure(self.pki)
        node.start_agent("--config", self.config)

    @property
    def signed(self) -> tuple[object, ...]:
        return ("--authority", self.pki, "--output", self.pki)

    def certificate(self, *arguments: object) -> None:
        made = lockgate("xds", "certificate", *arguments)
        assert made.status == 0, made

    def list_all(self) -> None:
        edges = (self.one.workload, self.two.workload)
        pods = [pod.workload() for pod in self.node.ground.pods if not pod.name.startswith("edge")]
        pods[0]["labels"] = self.labels
        entries = [{key: value for key, value in entry.items() if value is not None} for entry in (*pods, *edges)]
        self.node.replace(self.node.workloads, yaml.safe_dump({"workloads": entries}))

    def allow(self, edge: Edge, path: str) -> None:
        text = POLICY.replace("NAME", edge.name).replace("APP", edge.name).replace("PATH", path)
        self.node.write(edge.name, text)

    def states(self) -> dict[str, str]:
        """The worst of each node, and "-" for one that is not connected."""
        found: dict[str, str] = {}
        for entry in self.node.lockgate("xds", "status", "-o", "json").data:
            state = "-" if entry["type"] == "-" else entry["state"]
            found[entry["node"]] = min(found.get(entry["node"], state), state)  # by the alphabet: the bad news first
        return found

    def in_force(self, name: str) -> bool:
        """All that a node confirmed is what it said it works by."""
        rows = [each for each in self.node.lockgate("xds", "resources", "-o", "json").data if each["node"] == name]
        return bool(rows) and all(row["in_force"] == row["held"] for row in rows)

    def local_change(self, path: str) -> None:
        """A change on the agent's own node comes into force."""
        node = self.node
        node.write("backend", POLICY.replace("NAME", "more").replace("APP", "backend").replace("PATH", path))
        node.becomes(OK, lambda: fetch(node.frontend, node.backend.ipv4, 80, path))

    def metric(self, name: str) -> float:
        return samples(metrics(self.node))[name]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    node = LiveNode()
    try:
        node.serve(node.backend, 80)
        made = Ground(node)
        yield made
        print(made.one.log[-4000:], made.two.log[-4000:])  # shown when a test fails
    finally:
        node.close()


def test_each_remote_envoy_enforces_its_own_policies(ground: Ground) -> None:
    node = ground.node
    assert {name: state for name, state in ground.states().items() if name.startswith("edge")} == {
        "edge-1": "-",
        "edge-2": "-",
    }
    node.until("a remote node that is away is no trouble of this one", node.ok)
    ground.one.start()
    ground.two.start("--disable-extensions", LACKING)
    for edge, own, other in ((ground.one, "/one", "/two"), (ground.two, "/two", "/one")):
        for ip in edge.ips:
            node.becomes(OK, lambda ip=ip, own=own: fetch(node.frontend, ip, 80, own))  # type: ignore[misc]
            assert fetch(node.frontend, ip, 80, other) == DENIED
            assert fetch(node.intruder, ip, 80, own) == DENIED
            assert fetch(node.frontend, ip, 15001, own) == CLOSED, "nobody talks to the listener itself"
        assert {seen.path for seen in edge.web.seen} == {own}
    node.until("both are in step", lambda: {"edge-1": "SYNCED", "edge-2": "SYNCED"}.items() <= ground.states().items())
    rows = node.lockgate("xds", "resources", "-o", "json").data
    assert {row["in_force"] for row in rows if row["node"] == "edge-2"} == {"not asked"}
    node.until("what is in force on the node that is asked", lambda: ground.in_force("edge-1"))
    node.until("both are counted", lambda: ground.metric("lockgate_xds_remote_nodes,state=SYNCED") == 2)
    (entry,) = [each for each in node.lockgate("endpoint", "list", "-o", "json").data if "edge-1" in each["endpoint"]]
    assert entry["ingress"] == "on edge-1"


def test_who_is_who_changes_on_remote_envoys_too(ground: Ground) -> None:
    node, ip = ground.node, ground.one.ips[0]
    node.becomes(OK, lambda: fetch(node.frontend, ip, 80, "/one"))
    ground.labels = {"app": "frontend", "role": "nothing"}
    ground.list_all()
    node.becomes(DENIED, lambda: fetch(node.frontend, ip, 80, "/one"))
    ground.labels = {"app": "frontend", "role": "frontend"}
    ground.list_all()
    node.becomes(OK, lambda: fetch(node.frontend, ip, 80, "/one"))


def test_without_the_nodes_own_certificate_nothing_is_served(ground: Ground) -> None:
    node, pki = ground.node, ground.pki
    assert shake_hands(node, pki, "edge-1") == serial_in(pki / "server.pem")
    with pytest.raises(OSError, match=r"certificate.required|reset|closed|EOF"):
        shake_hands(node, pki)
    before = ground.metric("lockgate_xds_clients_refused_total")
    forged = Edge.__new__(Edge)
    forged.node, forged.name, forged.pod = node, "edge-1", node.intruder
    forged.folder = node.folder / "forged"
    forged.configure(pki, certificate="edge-2")
    forged.start()
    node.until("it is refused", lambda: "the certificate is for node edge-2, but the client says" in forged.log)
    assert ground.metric("lockgate_xds_clients_refused_total") > before
    forged.signal(signal.SIGKILL)
    shown = lockgate("envoy", "config", "filters", "-o", "json", "--run-dir", forged.folder)
    assert "edge-1" not in shown.out


def test_a_remote_envoy_that_is_slow_or_dead_delays_nobody(ground: Ground) -> None:
    node = ground.node
    node.until("both are in step", lambda: ground.states()["edge-2"] == "SYNCED")
    ground.two.signal(signal.SIGSTOP)
    try:
        ground.allow(ground.two, "/two/later")
        node.until("its answer is awaited", lambda: ground.states()["edge-2"] == "STALE")
        for number in range(5):  # more than one, and each comes into force elsewhere
            ground.allow(ground.one, f"/one/{number}")
            node.becomes(OK, lambda number=number: fetch(node.frontend, ground.one.ips[0], 80, f"/one/{number}"))  # type: ignore[misc]
            ground.allow(ground.two, f"/two/{number}")
            ground.local_change(f"/local/{number}")
        node.until("its own node is fine", node.ok)
        assert ground.states()["edge-2"] == "STALE"
    finally:
        ground.two.signal(signal.SIGCONT)
    node.becomes(OK, lambda: fetch(node.frontend, ground.two.ips[0], 80, "/two/4"))
    assert fetch(node.frontend, ground.two.ips[0], 80, "/two/later") == DENIED
    ground.allow(ground.one, "/one")
    node.until("both are in step", lambda: ground.states()["edge-2"] == "SYNCED")


def test_what_a_remote_envoy_refuses_is_held_back_there_alone(ground: Ground) -> None:
    node, (one, two) = ground.node, (ground.one.ips[0], ground.two.ips[0])
    node.write("both", BOTH_BEFORE)
    for ip in (one, two):
        node.becomes(OK, lambda ip=ip: fetch(node.frontend, ip, 80, "/both/old"))  # type: ignore[misc]
    ground.allow(ground.two, "/two/more")
    node.write("both", BOTH)
    node.becomes(OK, lambda: fetch(node.frontend, two, 80, "/two/more"))
    node.until("it is told", node.problems)
    (problem,) = node.problems()
    assert (
        f"both.yaml:9: {PLACE}: the Envoy of remote node edge-2 refuses policy default/both (lockgate.http." in problem
    )
    assert problem.endswith("; its last good version stays enforced there")
    assert problem in node.log
    states = ground.states()
    assert (states["edge-1"], states["edge-2"], states[node_of(ground)]) == ("SYNCED", "NACK", "SYNCED")
    assert "NACK" in (told := node.lockgate("xds", "status").out) and "policy default/both: " in told
    shown = node.lockgate("policy", "get", "both").out
    assert f"refused     {PLACE} (line 9) on edge-2\n" in shown and "the last version that Envoy took" in shown
    assert ground.metric("lockgate_remote_refused_policies,node=edge-2") == 1
    assert ground.metric("lockgate_remote_refused_policies,node=edge-1") == 0

    assert fetch(node.frontend, two, 80, "/both/old") == OK, "what it had stays enforced"
    assert fetch(node.frontend, two, 80, "/both/new") == DENIED
    node.becomes(OK, lambda: fetch(node.frontend, one, 80, "/both/new"))
    assert fetch(node.frontend, one, 80, "/both/old") == DENIED

    # The same bytes are not sent again, whatever else changes, and what is refused here holds up nothing.
    rejected = ground.two.rejected()
    assert rejected > 0
    ground.allow(ground.one, "/one/again")
    node.becomes(OK, lambda: fetch(node.frontend, one, 80, "/one/again"))
    ground.local_change("/local/again")
    assert ground.two.rejected() == rejected
    assert ground.states()["edge-2"] == "NACK"

    # So it stays after a restart of the agent, and no request that was allowed fails meanwhile.
    node.end_agent()
    node.start_agent("--config", ground.config, ready=False)
    node.until("it is refused again", lambda: node.status() and ground.states().get("edge-2") == "NACK")
    node.until("it is told again", lambda: any("its last good version stays" in each for each in node.problems()))
    assert fetch(node.frontend, two, 80, "/both/old") == OK
    assert fetch(node.frontend, two, 80, "/two/more") == OK

    # Mending it is enough, and so is taking it away; without an older version what only it allows is denied.
    node.write("both", BOTH_BEFORE.replace("/old", "/mended"))
    node.becomes(OK, lambda: fetch(node.frontend, two, 80, "/both/mended"))
    node.until("nothing is wrong", node.ok)
    node.write("fresh", BOTH.replace("name: both", "name: fresh"))
    node.until("it is refused", lambda: ground.states()["edge-2"] == "NACK")
    node.until("it is told", lambda: any("is denied there" in each for each in node.problems()))
    assert fetch(node.frontend, two, 80, "/both/new") == DENIED
    (node.policies / "fresh.yaml").unlink()
    node.until("nothing is wrong any more", lambda: node.ok() and ground.states()["edge-2"] == "SYNCED")

    # So is another Envoy, which can do it.
    node.write("both", BOTH)
    node.until("it is refused", lambda: ground.states()["edge-2"] == "NACK")
    ground.two.signal(signal.SIGKILL)
    ground.two.start()
    node.becomes(OK, lambda: fetch(node.frontend, two, 80, "/both/new"))
    node.until("nothing is wrong with that one", node.ok)
    ground.allow(ground.two, "/two")
    node.becomes(OK, lambda: fetch(node.frontend, two, 80, "/two"))


def node_of(ground: Ground) -> str:
    """The id of the agent's own node."""
    (name,) = [name for name in ground.states() if not name.startswith("edge")]
    return name


def test_certificates_are_renewed_by_their_files(ground: Ground) -> None:
    node, pki = ground.node, ground.pki
    kept = lockgate("xds", "certificate", "server", "--host", NODE_IPV4, *ground.signed)
    assert kept.status == 1 and "is there already and stays as it is" in kept.err
    before = serial_in(pki / "server.pem")
    ground.certificate("server", "--host", NODE_IPV4, "--replace", *ground.signed)
    assert shake_hands(node, pki, "edge-1") == serial_in(pki / "server.pem") != before
    good = (pki / "server.key").read_bytes()
    node.replace(pki / "server.key", (pki / "edge-1.key").read_text())
    (pki / "server.key").chmod(0o600)
    assert shake_hands(node, pki, "edge-1") == serial_in(pki / "server.pem"), "the pair before stays in use"
    assert any("is not that of the certificate" in problem for problem in node.problems())
    node.replace(pki / "server.key", good.decode())
    (pki / "server.key").chmod(0o600)
    node.until("the problem is gone", node.ok)
    ground.certificate("node", "edge-1", "--replace", "--days", 2, *ground.signed)
    node.until("Envoy has the new one", lambda: ground.one.serials() == {serial_in(pki / "edge-1.pem")})
    ground.allow(ground.one, "/one/after")
    node.becomes(OK, lambda: fetch(node.frontend, ground.one.ips[0], 80, "/one/after"))
    node.until("it is asked by the new ones", lambda: node.ok() and ground.in_force("edge-1"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in pki.glob("*.key")} == {0o600}


def test_remote_envoys_outlive_the_agent(ground: Ground) -> None:
    node = ground.node
    node.end_agent(signal.SIGKILL)
    time.sleep(0.2)
    assert fetch(node.frontend, ground.two.ips[0], 80, "/two") == OK
    assert fetch(node.frontend, ground.two.ips[0], 80, "/one") == DENIED
    node.start_agent("--config", ground.config)
    ground.allow(ground.two, "/two/new")
    node.becomes(OK, lambda: fetch(node.frontend, ground.two.ips[0], 80, "/two/new"))
