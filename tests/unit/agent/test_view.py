"""What `lockgate status` and its siblings say about what the agent knows. (A healthy node is shown end to end.)"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast

import pytest
from lockgate.agent.force.applied import Applied
from lockgate.agent.force.kernel_side import Kernel
from lockgate.agent.inspection.api import NoSuchPolicyError
from lockgate.agent.inspection.node_state import NodeState
from lockgate.agent.inspection.view import NodeView
from lockgate.agent.settings import Settings
from lockgate.agent.supply.endpoints import Discovery
from lockgate.agent.supply.intake import Intake, NoMemory, admit
from lockgate.envoy.running.process import EnvoyStatus, Phase
from lockgate.policies import Flow, World
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Workload
from lockgate.store import Document, StoreContent
from lockgate.xds import XdsServer

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
"""
RUNNING = EnvoyStatus(Phase.RUNNING, 1, 2, 3.0, 0, "", None, "1.40.0", True)


def policy(name: str, namespace: str = "default") -> str:
    return POLICY.replace("NAMESPACE", namespace).replace("NAME", name)


class Node:
    """A node with one server, of which a test says what happened to it."""

    def __init__(self, *policies: str) -> None:
        self.state = NodeState(Settings(Path("/p"), Path("/w"), run_dir=Path("/run/x")), envoy=RUNNING)
        self.reads(*policies)
        workload = Workload("server", "default", (("app", "server"),), ips=(ip_address("10.0.0.1"),))
        self.endpoint = replace(endpoint_of(workload), ifindex=7, interface="veth7")
        self.state.discovery = Discovery((self.endpoint,))
        self.view = NodeView(self.state, self.kernel, XdsServer(Path("/run/x/xds.sock")))

    async def kernel(self) -> Kernel:
        return Kernel(frozenset({7}), {"policy": 3}, (), frozenset({9}))

    def reads(self, *policies: str) -> None:
        documents = (Document("p.yaml", "---".join(policies).encode()),)
        self.state.intake = admit(self.state.intake, StoreContent(documents, ()), NoMemory())

    def applies(self, applied: Applied | None = None) -> None:
        self.state.finish(World.of(self.state.intake.policies, [self.endpoint]), applied or Applied())

    async def status(self) -> dict[str, Any]:
        return await self.view.status()


async def test_a_node_that_has_not_begun() -> None:
    status = await Node(policy("one")).status()
    assert (status["ok"], status["agent"]["state"], status["agent"]["revision"]) == (False, "starting", 0)
    assert status["policies"] == {
        "enforced": 1,
        "stale": 0,
        "nacked": 0,
        "overfull": 0,
        "nacked_by_node": {},
        "problems": 0,
    }
    assert status["datapath"] == {"attached": 1, "groups": 0, "uplinks": 1, "policy_entries": 3, "dropped": 0}


async def test_what_envoy_refused_is_told_and_changes_nothing() -> None:
    node = Node(policy("one"))
    node.applies()
    node.reads(policy("one"), policy("two"))
    node.applies(Applied({"lockgate.http.ingress": "no such matcher"}))
    status = await node.status()
    assert (status["ok"], status["agent"]["revision"]) == (False, 1)
    assert status["problems"] == [
        "Envoy refused the last change, the policies before it stay enforced: lockgate.http.ingress: no such matcher"
    ]
    shown = await node.view.policy("two")
    assert (shown["state"], shown["endpoints"]) == ("pending", [])
    assert shown["problems"] == ["Envoy refused the last change: lockgate.http.ingress: no such matcher"]


async def test_what_is_not_confirmed_is_not_in_force() -> None:
    node = Node(policy("one"))
    node.applies(Applied(unconfirmed=True, problems=("Envoy is down: L7 is dropped",)))
    status = await node.status()
    assert (status["agent"]["state"], status["agent"]["revision"]) == ("starting", 0)
    assert status["problems"] == ["Envoy is down: L7 is dropped"]
    assert (await node.view.policy("one"))["state"] == "pending"


async def test_every_kind_of_problem_is_shown() -> None:
    node = Node(policy("one"))
    node.applies()
    node.reads(policy("one").replace('"80"', '"70000"'))
    node.applies()
    node.state.discovery = Discovery((node.endpoint,), ("workload default/x: gone",))
    node.state.memory_problem = "/s/accepted.db: disk full"
    problems = (await node.status())["problems"]
    assert [problem.split(":")[0] for problem in problems] == [
        "p.yaml",
        "policy default/one stays enforced in its last good version",
        "workload default/x",
        "/s/accepted.db",
    ]
    assert (await node.view.policy("one"))["state"] == "stale"


async def test_a_policy_is_found_by_its_name_where_that_is_unique() -> None:
    node = Node(policy("one"), policy("two"), policy("two", "other"))
    node.applies()
    assert (await node.view.policy("one"))["policy"] == "default/one"
    assert (await node.view.policy("other/two"))["endpoints"] == [], "it selects pods of its own namespace only"
    assert (await node.view.policy("default/two"))["endpoints"] == ["default/server"]
    with pytest.raises(NoSuchPolicyError, match="several policies are called two: default/two, other/two; "):
        await node.view.policy("two")
    with pytest.raises(NoSuchPolicyError, match="no policy is called three; 'lockgate policy list' shows all"):
        await node.view.policy("three")


async def test_a_policy_that_never_was_good_is_listed_as_refused() -> None:
    node = Node(policy("one").replace('"80"', '"70000"'))
    (shown,) = await node.view.policies()
    assert (shown["policy"], shown["state"], shown["endpoints"]) == ("default/one", "refused", [])
    assert "p.yaml:7: spec.ingress[0].toPorts[0].ports[0].port: " in shown["problems"][0]


async def test_endpoints_elsewhere_are_known_but_not_enforced_here() -> None:
    node = Node(policy("one"))
    far = endpoint_of(Workload("far", "default", (("app", "server"),), ips=(ip_address("10.0.0.2"),)))
    node.state.finish(World.of(node.state.intake.policies, [node.endpoint, far]), Applied())
    shown = {each["endpoint"]: each for each in await node.view.endpoints()}
    assert (shown["default/far"]["ingress"], shown["default/far"]["id"]) == ("elsewhere", 0)
    assert (shown["default/server"]["ingress"], shown["default/server"]["egress"]) == ("L4", "open")
    assert shown["default/far"]["identity"] == shown["default/server"]["identity"], "they have the same labels"
    identities = {each["identity"]: each["prefixes"] for each in await node.view.identities()}
    assert sorted(identities[shown["default/far"]["identity"]]) == ["10.0.0.1/32", "10.0.0.2/32"]


async def test_nothing_is_known_before_the_first_world() -> None:
    node = Node()
    assert await node.view.endpoints() == []
    assert await node.view.identities() == []
    assert (await node.view.datapath())["interfaces"] == []
    assert cast(list[Any], await node.view.xds()) == []
    assert node.state.intake == Intake(files=node.state.intake.files)


async def test_who_is_cut_off_is_explained_as_the_kernel_has_it() -> None:
    node = Node(policy("one"))
    node.applies()
    flow = Flow("172.17.0.9", "server", 80)
    assert (await node.view.explain(flow))["verdict"] == "allow"
    node.state.closed = lambda: (ip_network("172.17.0.0/16"),)
    assert (await node.view.explain(flow))["verdict"] == "deny"
