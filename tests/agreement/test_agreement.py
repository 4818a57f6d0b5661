"""The verdict function, the kernel's programs and Envoy agree. `scripts/agreement` is the same for longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.policies import Protocol
from lockgate.tests.agreement.campaign import CASES, Lab, running_lab
from lockgate.tests.agreement.case import Case, Setting

POLICY_SETS, FLOWS, SEED = 100, 26, 1
KEPT = sorted(CASES.glob("*.yaml"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as running:
        yield running


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_once_disagreed(lab: Lab, path: Path) -> None:
    assert lab.disagreements(Case.read(path)) == []


def test_random_policies_and_flows(lab: Lab) -> None:
    result = lab.campaign(POLICY_SETS, FLOWS, SEED)
    assert not result.disagreements, "\n\n".join(map(str, result.disagreements))
    assert result.distinct > POLICY_SETS // 2
    tally = lab.node.tally
    assert all(tally.flows[word] > 100 for word in ("allowed", "denied", "redirected")), tally
    assert all(tally.requests[status] > 50 for status in ("200", "403", "TLS 200", "TLS closed")), tally
    assert all(tally.spoken[how] > 50 for how in ("http/1.1 as http/1.1", "h2 as h2", "h2 refused")), tally
    assert all(tally.spoken[how] > 10 for how in ("TLS http/1.1 as http/1.1", "TLS h2 as h2")), tally
    assert tally.spoken["TLS h2 refused"] and tally.spoken["TLS h2 as http/1.1"], tally
    assert tally.changed > 20 and tally.grpc > 10 and tally.awaited > 5, tally
    assert all(tally.protocols[protocol] > 10 for protocol in Protocol), tally


def test_a_policy_that_the_node_does_not_have_is_noticed(lab: Lab) -> None:
    """Judged by a policy that is not in force, a flow must disagree in the kernel and in Envoy."""

    def setting(path: str, port: str) -> Setting:
        rule = {"ports": [{"port": port, "protocol": "TCP"}], "rules": {"http": [{"path": path}]}}
        spec = {"endpointSelector": {}, "ingress": [{"toPorts": [rule]}]}
        policy = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}
        workloads = [{"name": f"w{n}", "interface": f"ep{n}", "ips": [f"10.200.0.{2 + n}"]} for n in range(2)]
        return Setting([policy], workloads)

    def disagreements(judged_by: Setting) -> list[str]:
        world = judged_by.world(lab.node.devices)
        flow = {"from": "10.200.0.2", "to": "10.200.0.3", "port": 80, "http": {"path": "/a", "host": "api"}}
        return lab.run(lab.node.compare(world, flow))

    lab.run(lab.node.enforce(setting("/a", "80")))
    assert disagreements(setting("/a", "80")) == []
    assert [each.partition(":")[0] for each in disagreements(setting("/b", "80"))] == ["Envoy"]
    assert {each.partition(":")[0] for each in disagreements(setting("/a", "81"))} == {"kernel", "Envoy"}
