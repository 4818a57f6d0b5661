"""Random policies in a real Envoy: every request gets the verdict that the verdict function gives."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import DirectionPolicy, EndpointPolicy, Protocol
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import Verdict, judge
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy, running_envoy
from lockgate.tests.unit.xds.policy_strategies import directions, endpoint, ipcache, requests
from lockgate.xds import NodeCompiler, XdsServer, policed_by

WAIT = 15.0
CLIENTS = {"127.0.0.21": 300, "127.0.0.22": 301, "127.1.0.5": 302, "127.0.0.99": 9, "::1": 10}
SERVERS = {"127.0.0.1": 400, "127.0.0.2": 401, "::1": 10}
CACHE = ipcache(
    {
        "0.0.0.0/0": 9,
        "::/0": 10,
        "127.0.0.21/32": 300,
        "127.0.0.22/32": 301,
        "127.1.0.0/16": 302,
        "127.0.0.1/32": 400,
        "127.0.0.2/32": 401,
    }
)
SERVER, CLIENT = endpoint("default/server", 400, "127.0.0.1"), endpoint("default/client", 300, "127.0.0.21")


def expected(flow: tuple[str, str, int, HttpRequest], ingress: DirectionPolicy, egress: DirectionPolicy) -> int:
    source, destination, port, request = flow
    verdicts = []
    if source in map(str, CLIENT.ips) and egress.redirects:
        verdicts.append(judge(egress, SERVERS[destination], Protocol.TCP, port, request).verdict)
    if destination in map(str, SERVER.ips) and ingress.redirects:
        verdicts.append(judge(ingress, CLIENTS[source], Protocol.TCP, port, request).verdict)
    return 200 if all(verdict is Verdict.ALLOW for verdict in verdicts) else 403


def send(envoy: LoopbackEnvoy, flow: tuple[str, str, int, HttpRequest]) -> int:
    source, destination, port, request = flow
    headers = {**request.headers, "host": request.host}
    return envoy.get(source, request.path, method=request.method, to=(destination, port), headers=headers).status


def test_every_request_gets_the_verdict_of_the_verdict_function(tmp_path: Path) -> None:
    server, compiler, seen = XdsServer(tmp_path / "xds.sock"), NodeCompiler(), Counter[int]()
    with asyncio.Runner() as runner:
        runner.run(server.start())
        with running_envoy(tmp_path / "xds.sock", CACHE, (SERVER, CLIENT), tuple(SERVERS), ports=2) as envoy:
            ports = [port for _, port in envoy.listen[:2]]

            async def enforce(ingress: DirectionPolicy, egress: DirectionPolicy) -> None:
                pairs = [(SERVER, EndpointPolicy(ingress=ingress)), (CLIENT, EndpointPolicy(egress=egress))]
                resources = compiler.compile(pairs, policed_by(pairs))
                settled = await server.settled(await server.publish(resources.snapshot()), WAIT)
                assert settled.acked, settled

            sources = st.sampled_from([source for source in CLIENTS if source != "::1"])
            flows = st.one_of(
                st.tuples(sources, st.sampled_from(["127.0.0.1", "127.0.0.2"]), st.sampled_from(ports), requests),
                st.tuples(st.just("::1"), st.just("::1"), st.sampled_from(ports), requests),
            )

            @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
            @given(
                directions(ports, sorted(set(CLIENTS.values()))),
                directions(ports, sorted(set(SERVERS.values()))),
                st.lists(flows, min_size=5, max_size=12),
            )
            def agrees(
                ingress: DirectionPolicy, egress: DirectionPolicy, asked: list[tuple[str, str, int, HttpRequest]]
            ) -> None:
                runner.run(enforce(ingress, egress))
                envoy.wait_until_listening()
                for flow in asked:
                    status = send(envoy, flow)
                    assert status == expected(flow, ingress, egress), flow
                    seen[status] += 1

            agrees()
        runner.run(server.stop())
    assert seen[200] > 50 and seen[403] > 50, seen
