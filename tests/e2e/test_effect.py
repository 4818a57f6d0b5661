"""Effect and not only ACK, with a real Envoy: what it says it enforces, drift, and the metrics of a live node."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lockgate.agent.force.effect_watch import EffectWatch
from lockgate.agent.inspection.client import ask
from lockgate.envoy.inspection.admin import Admin
from lockgate.policies.endpoint_policy import Direction, HttpRule
from lockgate.tests.e2e.live_node import EXAMPLES, LiveNode
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy, running_envoy
from lockgate.tests.e2e.test_xds_envoy import (
    CACHE,
    CLIENT,
    FRONTEND,
    SERVER,
    SHARD,
    WAIT,
    allowing,
    enforce,
    server_policy,
)
from lockgate.tests.unit.agent.test_metrics import samples
from lockgate.xds import FILTER_CONFIG, SHARDS, XdsServer, shard_name

NODE = "loopback"
API = (EXAMPLES / "api-access-control.yaml").read_text()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    running = XdsServer(tmp_path / "xds.sock")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[LoopbackEnvoy]:
    with running_envoy(tmp_path / "xds.sock", CACHE, (SERVER, CLIENT)) as running:
        yield running


async def test_drift_is_found_and_repaired(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    """The server is made to believe in an ACK that never came: nobody would send the new version any more."""
    await enforce(server, server_policy(allowing(HttpRule("/old"))).snapshot())
    watch = EffectWatch(server, NODE, envoy.folder / "admin.sock")
    async with Admin(envoy.folder / "admin.sock") as admin:
        assert await watch.look(admin) == ()
        assert {name.name for name in watch.effect.in_force} == {
            shard_name(direction, number) for direction in Direction for number in range(SHARDS)
        }
        new = server_policy(allowing(HttpRule("/new"))).snapshot()
        (client,) = server._clients.values()
        subscription = client.stream.subscriptions[FILTER_CONFIG]
        version = new.of_type(FILTER_CONFIG)[SHARD].version
        subscription._known[SHARD] = version
        await enforce(server, new)
        envoy.wait_until_listening()
        assert envoy.get(FRONTEND, "/new").status == 403, "it has confirmed, for all that the server knows"

        (drift,) = await watch.look(admin, everything=False)
        assert (drift.resource.name, drift.confirmed) == (SHARD, version)
        assert drift.actual not in (None, version)
        watch._conclude((drift,))
        assert (watch.effect.repaired, watch.effect.drifts) == (1, (drift,))
        deadline = time.monotonic() + WAIT
        while await watch.look(admin, everything=False) and time.monotonic() < deadline:
            pass
        assert await watch.look(admin, everything=False) == await watch.look(admin) == ()
        assert envoy.get(FRONTEND, "/new").status == 200
        watch._conclude(())
        assert watch.effect.drifts == ()


def test_every_resource_of_a_live_node_is_in_force_as_confirmed(shared_node: LiveNode) -> None:
    def in_force() -> bool:
        resources = [each for entry in ask(shared_node.run_dir, "/v1/xds") for each in entry["resources"]]
        return bool(resources) and all(each["in_force"] == each["held"] == each["published"] for each in resources)

    shared_node.until("all of it was looked at", in_force)
    kinds = {entry["type"] for entry in ask(shared_node.run_dir, "/v1/xds") if entry["resources"]}
    assert kinds == {"TypedExtensionConfig", "Listener", "RouteConfiguration"}


def test_the_metrics_of_a_live_node(shared_node: LiveNode) -> None:
    before = samples(metrics(shared_node))
    shared_node.write("api-access-control", API + "# another version\n        - path: /more\n")
    changed = "lockgate_effect_seconds_count"
    shared_node.until("the change was seen in effect", lambda: samples(metrics(shared_node))[changed] > before[changed])
    found = samples(metrics(shared_node))
    pushes = "lockgate_xds_pushes_total,type=TypedExtensionConfig"
    acks = "lockgate_xds_acks_total,type=TypedExtensionConfig"
    assert found[pushes] - before[pushes] == found[acks] - before[acks] == 1, "only what the change touches is sent"
    assert found["lockgate_xds_clients"] == 1
    assert (found["lockgate_drift"], found["lockgate_drift_repaired_total"]) == (0, 0)
    assert found["lockgate_policies,state=enforced"] == 2
    assert any(name.startswith("envoy_http_downstream_rq_total") for name in found)
    assert any(name.startswith("envoy_extension_config_discovery") for name in found)
    more = samples(metrics(shared_node, "/metrics/envoy"))
    assert {name for name in found if name.startswith("envoy_")} < more.keys()
    assert len(found) + len(more) <= 600
    shared_node.write("api-access-control", API)
    shared_node.until("it is as it was", shared_node.ok)


def metrics(node: LiveNode, path: str = "/metrics") -> bytes:
    """From the local API's socket."""

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(node.run_dir / "agent.sock"))

    connection = Connection("agent", timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    return body
