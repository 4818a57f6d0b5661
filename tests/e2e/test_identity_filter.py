"""The identity filter in a real Envoy with a real map: a stranger is not let in, a known identity needs no telling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    ResolvedRule,
)
from lockgate.redirect.kernel.maps import PinnedMap
from lockgate.redirect.plan import Owner
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy, ask, running_envoy
from lockgate.tests.unit.xds.policy_strategies import endpoint, ipcache, origin
from lockgate.xds import NodeCompiler, XdsServer, policed_by, shard_name, shard_of

WAIT = 15.0
FRONTEND, NEW, STRANGER = "127.0.0.21", "127.0.1.1", "127.9.9.9"
SERVER = endpoint("default/api-server", 400, "127.0.0.1")
# No prefix holds everything else here.
CACHE = ipcache({f"{FRONTEND}/32": 300, "127.0.0.30/32": 301})
RULE = ResolvedRule(origin("api"), False, frozenset({300}), None, HttpRules((HttpRule("/a"),)))
NO_RULE = "identity:400:ingress:no-rule-matched"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    running = XdsServer(tmp_path / "xds.sock")
    await running.start()
    pairs = [(SERVER, EndpointPolicy(ingress=DirectionPolicy(True, (RULE,))))]
    await running.publish(NodeCompiler().compile(pairs, policed_by(pairs)).snapshot())
    try:
        yield running
    finally:
        await running.stop()


@pytest.fixture
def envoy(tmp_path: Path, server: XdsServer) -> Iterator[LoopbackEnvoy]:
    with running_envoy(tmp_path / "xds.sock", CACHE, (SERVER,)) as running:
        yield running


async def up(envoy: LoopbackEnvoy) -> None:
    await asyncio.to_thread(envoy.wait_until_listening)


async def test_an_address_that_the_map_does_not_know_is_closed(envoy: LoopbackEnvoy) -> None:
    await up(envoy)
    for source, why in (
        (STRANGER, f"the ipcache does not know the source {STRANGER}: No such file or directory"),
        ("127.0.0.40", "nobody may talk to or from the source 127.0.0.40"),
    ):
        envoy.ipcache.set({ip_network("127.0.0.40"): Owner(0)})
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(envoy.get, source, "/a")
        assert why in envoy.log
    assert (await asyncio.to_thread(envoy.get, FRONTEND, "/a")).status == 200


async def test_a_new_address_of_a_known_identity_takes_a_map_entry_and_no_configuration(
    envoy: LoopbackEnvoy,
) -> None:
    await up(envoy)
    with pytest.raises(ConnectionError):  # its first connection, before the entry
        await asyncio.to_thread(envoy.get, NEW, "/a")
    shard = shard_name(Direction.INGRESS, shard_of(SERVER.identity))
    responses = f"extension_config_discovery.http_filter.{shard}.update_attempt"
    told = envoy.stat(responses)
    envoy.ipcache.set({ip_network(f"127.0.{n // 250 + 1}.{n % 250 + 1}"): Owner(300) for n in range(1000)})
    assert [(await asyncio.to_thread(envoy.get, NEW, path)).status for path in ("/a", "/b")] == [200, 403]
    assert (await asyncio.to_thread(envoy.get, "127.0.4.250", "/a")).status == 200
    assert envoy.stat(responses) == told > 0


async def test_an_identity_that_envoy_has_not_been_told_of_is_denied(envoy: LoopbackEnvoy) -> None:
    await up(envoy)
    # A peer that no rule names, and an end of this node whose policy has not come yet.
    envoy.ipcache.set({ip_network(NEW): Owner(999)})
    answer = await asyncio.to_thread(envoy.get, NEW, "/a")
    assert (answer.status, answer.rule) == (403, NO_RULE)
    envoy.ipcache.set({ip_network("127.0.0.1"): Owner(888, 7)})
    answer = await asyncio.to_thread(envoy.get, FRONTEND, "/a")
    assert (answer.status, answer.rule) == (403, "node:unknown-identity")


async def test_an_end_of_another_node_is_not_judged_here(envoy: LoopbackEnvoy) -> None:
    await up(envoy)
    envoy.ipcache.set({ip_network("127.0.0.1"): Owner(400)})
    assert (await asyncio.to_thread(envoy.get, "127.0.0.30", "/b")).status == 200


async def test_no_connection_goes_by_an_owner_of_before(envoy: LoopbackEnvoy) -> None:
    """Envoy keeps what it has looked up, on each of its threads, and none of it beyond a change of the map."""
    await up(envoy)

    def take_turns() -> list[int]:
        statuses = []
        for number in range(200):
            envoy.ipcache.set({ip_network(FRONTEND): Owner(300 + number % 2)})
            statuses += [envoy.get(FRONTEND, "/a").status for _ in range(3)]
        return statuses

    assert await asyncio.to_thread(take_turns) == ([200] * 3 + [403] * 3) * 100


async def test_while_the_map_changes_nothing_is_kept(envoy: LoopbackEnvoy) -> None:
    """Also when the writer has died in the middle, until the next one has written."""
    await up(envoy)

    async def status() -> int:
        return (await asyncio.to_thread(envoy.get, FRONTEND, "/a")).status

    assert await status() == 200
    with envoy.ipcache.generation.change():
        for identity, wanted in ((301, 403), (300, 200), (301, 403)):
            PinnedMap.put(envoy.ipcache.map, {ip_network(FRONTEND): Owner(identity)})
            assert await status() == wanted
        PinnedMap.remove(envoy.ipcache.map, [ip_network(FRONTEND)])
        with pytest.raises(ConnectionError):
            await status()
    assert envoy.ipcache.generation.value % 2 == 0


async def test_a_connection_keeps_who_it_was_made_by(envoy: LoopbackEnvoy) -> None:
    """An address that changes hands does not take the other's connections over, nor lend its own."""
    await up(envoy)
    with closing(envoy.connect(FRONTEND)) as connection:
        assert ask(connection, "/a").status == 200
        envoy.ipcache.set({ip_network(FRONTEND): Owner(301)})
        assert ask(connection, "/a").status == 200
        assert (await asyncio.to_thread(envoy.get, FRONTEND, "/a")).status == 403
