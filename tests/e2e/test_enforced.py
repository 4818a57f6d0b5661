"""`envoy rbac`: what Envoy enforces, read back from a real one, says what the policies say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import typer.main
from lockgate.agent.cli.app import app
from lockgate.agent.cli.options import known_names
from lockgate.agent.inspection.client import ask
from lockgate.agent.inspection.rbac_view import Row, identity_names, rows
from lockgate.envoy.inspection.enforced import enforced_rules
from lockgate.policies.endpoint_policy import (
    Direction,
    HeaderMatch,
    HttpRule,
    MismatchAction,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.tests.e2e.live_node import LiveNode
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy, running_envoy
from lockgate.tests.e2e.test_xds_envoy import CACHE, CLIENT, SERVER, allowing, enforce, server_policy
from lockgate.tests.unit.xds.policy_strategies import origin
from lockgate.xds import SHARDS, XdsServer, end_text

PLACE = "spec.ingress[0].toPorts[0]"
NAMES = identity_names(
    [
        {"endpoint": "default/frontend", "identity": 300},
        {"endpoint": "default/intruder", "identity": 301},
    ],
    [
        {"identity": 9, "labels": ["reserved:world", "reserved:world-ipv4"]},
        {"identity": 10, "labels": ["reserved:world-ipv6"]},
    ],
)


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


async def read_back(server: XdsServer, envoy: LoopbackEnvoy, *rules: ResolvedRule) -> list[Row]:
    await enforce(server, server_policy(*rules).snapshot())
    dump = json.loads(envoy.admin("/config_dump?name_regex=lockgate%5C..*&mask=ecds_filters"))
    assert list(enforced_rules(dump, [end_text(401, here=True)])) == [], "another identity has no rules here"
    return rows(enforced_rules(dump, [end_text(SERVER.identity, here=True)]), NAMES)


async def test_every_rule_is_read_back_with_its_policy(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    ports = (PortSpan(Protocol.TCP, 80, 80), PortSpan(Protocol.TCP, 8000, 8100))
    api = allowing(
        HttpRule("/users", "GET"),
        HttpRule("/files/.*", headers=(HeaderMatch("x-team", "blue"), HeaderMatch("x-debug"))),
        HttpRule("/items/[0-9]+", host="api"),
        ports=ports,
    )
    denied = ResolvedRule(origin("deny"), True, frozenset({301}), None)
    found = await read_back(server, envoy, api, denied)
    wide = "80, 8000-8100"
    allowed = [row for row in found if row.verdict == "allow"]
    assert {(row.direction, row.protocol, row.port, row.policy, row.rule) for row in allowed} == {
        ("ingress", "http", wide, "default/api", PLACE)
    }
    assert [(row.peer, row.method, row.path, row.host, row.more) for row in allowed] == [
        ("default/frontend", "GET", "/users", "any", ""),
        ("default/frontend", "otherwise", "/files/*", "any", "x-team: blue; x-debug: any"),
        ("default/frontend", "otherwise", "~/items/[0-9]+", "api", ""),
    ]
    by_rule = {(row.peer, row.port) for row in found if row.policy == "default/deny"}
    assert {peer for peer, _ in by_rule} == {"default/intruder"}
    refused = [row for row in found if row.verdict == "deny" and not row.policy]
    assert any(row.rule == f"no-rule-matched:default/api:{PLACE}" for row in refused)
    assert any(row.rule == "identity:400:ingress:no-rule-matched" for row in refused)


async def test_a_policy_that_changes_headers_is_read_back_too(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    replaced = HeaderMatch("x-role", "user", MismatchAction.REPLACE)
    found = await read_back(server, envoy, allowing(HttpRule("/a", "GET", headers=(replaced,))))
    (row,) = (row for row in found if row.verdict == "allow")
    assert (row.direction, row.peer, row.method, row.path) == ("ingress", "default/frontend", "GET", "/a")


async def test_a_secret_is_struck_out(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    secret = allowing(HttpRule("/", headers=(HeaderMatch("x-token", "hunter2", secret=True),)))
    found = await read_back(server, envoy, secret)
    assert "hunter2" not in str(found)
    (row,) = (row for row in found if row.verdict == "allow")
    assert row.more == "x-token: [redacted]"


def test_the_command_on_a_live_node(shared_node: LiveNode) -> None:
    shown = shared_node.lockgate("envoy", "rbac", "api-server", "-o", "json").data
    (row,) = (row for row in shown if row["verdict"] == "allow" and row["policy"] == "default/api-access-control")
    assert (row["direction"], row["peer"], row["port"]) == ("ingress", "default/frontend", "80")
    assert (row["method"], row["path"], row["rule"]) == ("GET", "/api/v1/users", PLACE)
    assert "default/api-access-control" in shared_node.lockgate("envoy", "rbac", str(shared_node.api.ipv6)).out
    nothing = shared_node.lockgate("envoy", "rbac", "backend")
    assert "Envoy enforces nothing for default/backend" in nothing.out
    unknown = shared_node.lockgate("envoy", "rbac", "nobody")
    assert (unknown.status, "no workload is called nobody" in unknown.err) == (1, True)


def test_all_filters_are_listed_whatever_their_sort(shared_node: LiveNode) -> None:
    listed = shared_node.lockgate("envoy", "config", "filters").out
    for name in ("lockgate.http.ingress.0", f"lockgate.http.egress.{SHARDS - 1}", "lockgate.tls.ingress"):
        (line,) = (line for line in listed.splitlines() if line.startswith(f"{name} "))
        assert "default" not in line, "its policy is in force"
    some = shared_node.lockgate("envoy", "config", "filters", "-n", "tls", "-o", "json").data
    names = {entry["ecds_filter"]["name"] for section in some for entry in section.get("ecds_filters", ()) if entry}
    requests = {f"lockgate.tls.http.{direction}{more}" for direction in Direction for more in ("", ".headers")}
    assert names == {"lockgate.tls.egress", "lockgate.tls.ingress", "lockgate.tls.taken.ingress", *requests}
    routes = shared_node.lockgate("envoy", "config", "routes", "-n", "lockgate.http").out
    assert "lockgate.original_destination without lockgate.http.egress" in routes
    (frontend,) = (
        each["identity"] for each in ask(shared_node.run_dir, "/v1/endpoints") if each["endpoint"] == "default/frontend"
    )
    assert str(frontend) in routes, "it has no policy that Envoy judges by"
    assert shared_node.lockgate("envoy", "config", "secrets").status == 0


def test_the_kernels_maps_are_read_with_and_without_names(shared_node: LiveNode) -> None:
    policy = shared_node.lockgate("datapath", "maps", "-o", "json").data
    redirected = [entry for entry in policy if entry["verdict"] == "redirect"]
    assert {(entry["ports"], entry["proxy_port"]) for entry in redirected} == {("80/TCP", 15001)}
    assert all("k8s:role=frontend" in entry["peer"] for entry in redirected)
    endpoints = shared_node.lockgate("datapath", "maps", "endpoints", "-o", "json").data
    numbers = {entry["endpoint"]: entry["ingress"] for entry in endpoints}
    assert numbers["default/api-server"] in {entry["policy"] for entry in redirected}
    ipcache = shared_node.lockgate("datapath", "maps", "ipcache", "-o", "json").data
    by_prefix = {entry["prefix"]: entry["endpoint"] for entry in ipcache}
    assert by_prefix[f"{shared_node.api.ipv4}/32"] == by_prefix[f"{shared_node.api.ipv6}/128"] == "default/api-server"
    assert "VERDICT" in shared_node.lockgate("datapath", "maps").out


def test_the_shell_completes_the_names_that_the_agent_knows(shared_node: LiveNode) -> None:
    complete = known_names("/v1/endpoints", "endpoint")
    context = typer.Context(typer.main.get_command(app))
    context.params = {"run_dir": shared_node.run_dir}
    assert complete(context, "default/a") == ["default/api-server"]
    context.params = {"run_dir": shared_node.run_dir / "nowhere"}
    assert complete(context, "") == []
