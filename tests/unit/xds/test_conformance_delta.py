"""The outlines of the public xDS conformance suite for the incremental variant, in our words: 26 runs on the aggregated
service and 22 on those of single types.

https://github.com/ii/xds-test-harness/tree/main/features, after
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lockgate.tests.unit.xds.raw_stream import TYPES, DeltaRaw, Heard, Setup, serving

ALL = tuple(TYPES)
_numbers: Iterator[int] = iter(range(1, 1_000_000))


def runs(*services: str) -> pytest.MarkDecorator:
    """One run for each service, aggregated and alone."""
    return pytest.mark.parametrize(
        ("type_url", "aggregated"),
        [
            pytest.param(TYPES[service], aggregated, id=f"{service}-{'ADS' if aggregated else 'alone'}")
            for service in services
            for aggregated in (True, False)
        ],
    )


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with serving(tmp_path) as running:
        yield running


async def receives(client: DeltaRaw, names: str, content: str) -> dict[str, Heard]:
    """Exactly these names, in as many responses as the server likes; each is ACKed."""
    found: dict[str, Heard] = {}
    while found.keys() != set(names):
        heard = await client.hear()
        assert heard.contents and not heard.removed
        for name, told in heard.contents.items():
            assert (name in names, name in found, told) == (True, False, content)
            found[name] = heard
        await client.ack(heard)
    return found


async def says_no_more(setup: Setup, client: DeltaRaw) -> None:
    """A further name is answered next, by itself."""
    name = f"probe{next(_numbers)}"
    await setup.offer(client.type_url, [name], "probe")
    await client.subscribe(name)
    assert (await client.hear()).contents == {name: "probe"}


@runs(*ALL)
async def test_resources_subscribed_to_one_after_the_other(setup: Setup, type_url: str, aggregated: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return"""
    await setup.offer(type_url, "ABC", "1")
    async with setup.delta(type_url, aggregated=aggregated) as client:
        await client.subscribe("A")
        await receives(client, "A", "1")
        await client.subscribe("B")
        await receives(client, "B", "1")
        await says_no_more(setup, client)


@runs(*ALL)
async def test_an_update_is_sent_by_itself(setup: Setup, type_url: str, aggregated: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#grouping-resources-into-responses"""
    await setup.offer(type_url, "ABC", "1")
    async with setup.delta(type_url, aggregated=aggregated) as client:
        await client.subscribe(*"ABC")
        first = await receives(client, "ABC", "1")
        await setup.offer(type_url, "A", "2")
        second = await receives(client, "A", "2")
        assert second["A"].versions["A"] not in {first[name].versions[name] for name in "ABC"}
        assert second["A"].nonce not in {each.nonce for each in first.values()}
        await says_no_more(setup, client)


@runs(*ALL)
async def test_what_does_not_exist_is_told_and_sent_once_it_does(setup: Setup, type_url: str, aggregated: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#knowing-when-a-requested-resource-does-not-exist"""
    await setup.offer(type_url, "A", "1")
    async with setup.delta(type_url, aggregated=aggregated) as client:
        await client.subscribe("A", "B")
        there = await receives(client, "A", "1")
        absent = await client.hear()
        assert (absent.contents, absent.removed) == ({}, ("B",))
        await client.ack(absent)
        await setup.offer(type_url, "B", "1")
        created = await receives(client, "B", "1")
        assert created["B"].nonce not in {there["A"].nonce, absent.nonce}
        await says_no_more(setup, client)


@runs(*ALL)
async def test_a_removal_is_told_by_name(setup: Setup, type_url: str, aggregated: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#deleting-resources"""
    await setup.offer(type_url, "AB", "1")
    async with setup.delta(type_url, aggregated=aggregated) as client:
        await client.subscribe(*"AB")
        first = await receives(client, "AB", "1")
        await setup.withdraw(type_url, "B")
        gone = await client.hear()
        assert (gone.contents, gone.removed) == ({}, ("B",))
        await client.ack(gone)
        await setup.offer(type_url, "B", "2")
        back = await receives(client, "B", "2")
        assert back["B"].versions["B"] != first["B"].versions["B"]
        await says_no_more(setup, client)


@runs(*ALL)
async def test_resources_are_unsubscribed_from_one_by_one(setup: Setup, type_url: str, aggregated: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#unsubscribing-from-resources"""
    await setup.offer(type_url, "AB", "1")
    async with setup.delta(type_url, aggregated=aggregated) as client:
        await client.subscribe(*"AB")
        await receives(client, "AB", "1")
        for name in "BA":
            await client.unsubscribe(name)
            # The request is taken in before the change: a request is answered after those before it.
            await says_no_more(setup, client)
            await setup.offer(type_url, name, "2")
            await says_no_more(setup, client)


@runs("LDS", "RDS")
async def test_who_names_resources_gets_only_them(setup: Setup, type_url: str, aggregated: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return"""
    await setup.offer(type_url, "GBLD", "1")
    async with setup.delta(type_url, aggregated=aggregated) as client:
        await client.subscribe("L", "G")
        await receives(client, "LG", "1")
        await says_no_more(setup, client)


@pytest.mark.parametrize(
    ("one", "other"), [("CDS", "LDS"), ("LDS", "CDS"), ("RDS", "EDS"), ("EDS", "RDS")], ids=lambda name: str(name)
)
async def test_several_types_on_one_stream(setup: Setup, one: str, other: str) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#aggregated-discovery-service"""
    for type_url in (TYPES[one], TYPES[other]):
        await setup.offer(type_url, "ABC", "1")
    async with setup.delta(TYPES[one]) as client:
        nonces = set()
        for type_url in (TYPES[one], TYPES[other]):
            await client.subscribe("B", type_url=type_url)
        for _ in range(2):
            heard = await client.hear()
            assert heard.contents == {"B": "1"}
            nonces.add((heard.type_url, heard.nonce))
            await client.ack(heard)
        assert {type_url for type_url, _ in nonces} == {TYPES[one], TYPES[other]}
        for type_url in (TYPES[one], TYPES[other]):
            await setup.offer(type_url, "B", "2")
            heard = await client.hear()
            assert (heard.type_url, heard.contents) == (type_url, {"B": "2"})
            assert (type_url, heard.nonce) not in nonces
            await client.ack(heard)
        await says_no_more(setup, client)
