"""What a remote Envoy has in force, asked through its own listener by mutual TLS: drift, and who may ask what."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from select import select

import aiohttp
import pytest
from lockgate.agent.remote.admin import remote_doors
from lockgate.agent.remote.nodes import RemoteNodes
from lockgate.agent.remote.port import remote_port
from lockgate.agent.settings import RemoteSettings
from lockgate.envoy.config.remote_bootstrap import RemoteSettings as Bootstrap
from lockgate.envoy.config.remote_bootstrap import remote_bootstrap
from lockgate.envoy.errors import AdminError, AdminUnreachableError
from lockgate.envoy.inspection.admin import Admin
from lockgate.envoy.running.binary import find_binary
from lockgate.policies import Direction
from lockgate.tests.e2e.loopback_envoy import free_ports
from lockgate.tests.unit.agent.test_remote_nodes import endpoint, until, wanted
from lockgate.xds import FILTER_CONFIG, XdsServer, shard_name, shard_of
from lockgate.xds.serve.certificates import Authority

NODE = "edge-1"


@dataclass
class Site:
    """An agent's part for remote nodes, and one Envoy."""

    pki: Path
    admin_port: int
    server: XdsServer
    nodes: RemoteNodes
    settings: RemoteSettings


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    pki, authority = tmp_path / "pki", Authority.new()
    authority.identity.write(pki / "ca.pem", pki / "ca.key")
    authority.server(["127.0.0.1"]).write(pki / "server.pem", pki / "server.key")
    for node in (NODE, "edge-2"):
        authority.node(node).write(pki / f"{node}.pem", pki / f"{node}.key")
    port, admin_port, http_port = free_ports(("127.0.0.1",), 3)
    files = (pki / "ca.pem", pki / "server.pem", pki / "server.key")
    settings = RemoteSettings("127.0.0.1", port, *files, (NODE,), {NODE: ("127.0.0.1", admin_port)})
    served, read = remote_port(settings, "agent")
    server = XdsServer(tmp_path / "xds.sock", remote=served)
    await server.start()
    nodes = RemoteNodes((NODE,), server, tmp_path, remote_doors(settings, read))
    running = asyncio.create_task(nodes.run())
    own = (pki / f"{NODE}.pem", pki / f"{NODE}.key")
    envoy = Bootstrap(NODE, "127.0.0.1", port, pki / "ca.pem", *own, tmp_path, http_port, admin_port)
    for name, text in remote_bootstrap(envoy).items():
        (tmp_path / name).write_text(text)
    command = [find_binary().path, "-c", tmp_path / "envoy.json", "--disable-hot-restart", "--concurrency", "1"]
    with (tmp_path / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), "--component-log-level", "misc:error", stdout=log, stderr=log
        )
    try:
        yield Site(pki, admin_port, server, nodes, settings)
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            process.kill()
        await process.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        nodes.close()
        await server.stop()
        print((tmp_path / "envoy.log").read_text()[-3000:])


async def test_drift_of_a_remote_envoy_is_found_and_repaired(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    here = [endpoint("w", 0x7F000001, NODE, app="server")]
    site.nodes.want(wanted(("p", "old"), on=here))

    def in_step() -> bool:
        held = {
            each.name: each.held
            for client in site.server.status().clients
            for entry in client.types
            for each in entry.resources
        }
        found = {name.name: each.version for name, each in site.nodes.effects[NODE].in_force.items()}
        return bool(held) and found == held

    await until(in_step, bool)
    assert site.nodes.problems(()) == []

    # The server is made to believe in an ACK that never came: nobody would send the new version any more.
    new = wanted(("p", "new"), on=here)
    shard = shard_name(Direction.INGRESS, shard_of(new.world.endpoints[0].identity))
    (client,) = site.server._clients.values()
    subscription = client.stream.subscriptions[FILTER_CONFIG]
    before = subscription._known[shard]
    steps = site.nodes._nodes[NODE]._applier._steps(new.world)[1]
    subscription._known[shard] = steps[-1].of_type(FILTER_CONFIG)[shard].version
    site.nodes.want(new)
    await until(lambda: site.nodes.effects[NODE].repaired, bool)
    told = f"the Envoy of remote node {NODE} confirmed version {subscription._known[shard]} of TypedExtensionConfig "
    assert f"{told}{shard}, but has version {before} in force; it is sent again" in caplog.text
    await until(in_step, bool)
    assert site.nodes.effects[NODE].in_force  # by the new version
    await until(lambda: site.nodes.problems(()), lambda found: not found)


async def test_only_the_agent_may_ask_and_only_for_the_configuration(site: Site) -> None:
    site.nodes.want(wanted(("p", "old"), on=[endpoint("w", 0x7F000001, NODE, app="server")]))
    await until(lambda: site.nodes.effects[NODE].in_force, bool)
    url = f"https://127.0.0.1:{site.admin_port}"

    def context(own: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.load_verify_locations(site.pki / "ca.pem")
        if own:
            made.load_cert_chain(site.pki / f"{own}.pem", site.pki / f"{own}.key")
        return made

    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/config_dump", ssl=context("server")) as answer:
            dump = await answer.text()
            assert answer.status == 200 and "bootstrap" in dump and "PRIVATE KEY" not in dump
        for method, path in (
            ("POST", "/config_dump"),
            ("POST", "/quitquitquit"),
            ("GET", "/"),
            ("GET", "/stats"),
            ("GET", "/config_dump/../certs"),
            ("POST", "/logging?level=trace"),
        ):
            async with session.request(method, f"{url}{path}", ssl=context("server")) as answer:
                assert answer.status == 404, (method, path)
        for stranger in ("", NODE, "edge-2"):
            with pytest.raises(aiohttp.ClientError):
                async with session.get(f"{url}/config_dump", ssl=context(stranger)) as answer:
                    await answer.text()
    # Who holds connections open without a word is bounded, and ended in time.
    with ExitStack() as held:
        lines = [held.enter_context(socket.create_connection(("127.0.0.1", site.admin_port))) for _ in range(40)]
        await asyncio.to_thread(select, lines, [], [], 10)
        assert select(lines, [], [], 0)[0], "those beyond the limit are closed at once"
    with socket.create_connection(("127.0.0.1", site.admin_port)) as plain:
        plain.sendall(b"GET /config_dump HTTP/1.1\r\nhost: x\r\n\r\n")
        plain.settimeout(10)
        with suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(100)


async def test_the_agent_asks_nobody_but_the_node_it_means(site: Site) -> None:
    site.nodes.want(wanted(("p", "old"), on=[endpoint("w", 0x7F000001, NODE, app="server")]))
    await until(lambda: site.nodes.effects[NODE].in_force, bool)
    other = RemoteSettings(
        *("127.0.0.1", 1, site.settings.authority, site.settings.certificate, site.settings.key, ("edge-2",)),
        {"edge-2": ("127.0.0.1", site.admin_port)},
    )
    _, files = remote_port(other, "agent")
    async with Admin(remote_doors(other, files)["edge-2"]) as admin:
        with pytest.raises(AdminUnreachableError, match="the certificate there is not that of node edge-2"):
            await admin.config_dump()
    _, files = remote_port(site.settings, "agent")
    async with Admin(remote_doors(site.settings, files)[NODE]) as admin:
        assert await admin.config_dump(resource="ecds_filters", mask="version_info")
        with pytest.raises(AdminError, match="404"):
            await admin.server_info()
