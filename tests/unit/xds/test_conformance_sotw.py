"""The outlines of the public xDS conformance suite for the state of the world, in our words: 26 runs on the aggregated
service and 24 on those of single types.

https://github.com/ii/xds-test-harness/tree/main/features, after
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lockgate.tests.unit.xds.raw_stream import TYPES, Heard, Setup, SotwRaw, serving

# How responses are made: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#grouping-resources-into-responses
WHOLE, GROUPED = ("CDS", "LDS"), ("RDS", "EDS")
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


async def receives(client: SotwRaw, contents: dict[str, str]) -> Heard:
    """One response with exactly this; it is ACKed."""
    heard = await client.hear()
    assert heard.contents == contents
    await client.ack(heard)
    return heard


async def says_no_more(setup: Setup, client: SotwRaw, type_url: str = "") -> None:
    """A further name is answered next, with what belongs into that response and nothing else."""
    type_url = type_url or client.type_url
    name = f"probe{next(_numbers)}"
    wanted = client.names.get(type_url)
    offered = setup.contents[type_url]
    present = {each: offered[each] for each in (wanted or offered) if each in offered}
    await setup.offer(type_url, [name], "probe")
    if wanted is not None:
        await client.want(*wanted, name, type_url=type_url)
    whole = type_url in (TYPES["CDS"], TYPES["LDS"])
    heard = await receives(client, {**(present if whole else {}), name: "probe"})
    assert heard.type_url == type_url


# Wildcards: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return


@runs(*WHOLE)
async def test_a_wildcard_gets_everything_at_once(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABC", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await wildcard(client)
        await receives(client, dict.fromkeys("ABC", "1"))
        await says_no_more(setup, client)


@runs(*WHOLE)
async def test_a_wildcard_gets_updates_whole(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABC", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await wildcard(client)
        first = await receives(client, dict.fromkeys("ABC", "1"))
        await setup.offer(type_url, "A", "2")
        second = await receives(client, {"A": "2", "B": "1", "C": "1"})
        assert second.version != first.version and second.nonce != first.nonce
        await says_no_more(setup, client)


@runs(*WHOLE)
async def test_a_wildcard_gets_what_is_added(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABC", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await wildcard(client)
        await receives(client, dict.fromkeys("ABC", "1"))
        await setup.offer(type_url, "D", "2")
        await receives(client, {"A": "1", "B": "1", "C": "1", "D": "2"})
        await says_no_more(setup, client)


async def wildcard(client: SotwRaw) -> None:
    """No names, and none before."""
    await client.want()
    del client.names[client.type_url]


# Names:
# https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
# https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#when-to-send-an-update


@runs("LDS", "RDS")
async def test_who_names_resources_gets_only_them(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "GBLD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("L", "G")
        await receives(client, dict.fromkeys("LG", "1"))
        await says_no_more(setup, client)


@runs(*WHOLE)
async def test_a_change_comes_with_all_that_is_named(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABCD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("B", "D")
        await receives(client, dict.fromkeys("BD", "1"))
        await setup.offer(type_url, "B", "2")
        await receives(client, {"B": "2", "D": "1"})
        await says_no_more(setup, client)


@runs(*GROUPED)
async def test_a_change_comes_by_itself(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABCD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("B", "D")
        await receives(client, dict.fromkeys("BD", "1"))
        await setup.offer(type_url, "B", "2")
        await receives(client, {"B": "2"})
        await says_no_more(setup, client)


# https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#knowing-when-a-requested-resource-does-not-exist


@runs(*WHOLE)
async def test_what_is_created_later_comes_with_all_that_is_named(
    setup: Setup, type_url: str, aggregated: bool
) -> None:
    await setup.offer(type_url, "GBD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("B", "D", "X")
        await receives(client, dict.fromkeys("BD", "1"))
        await setup.offer(type_url, "X", "2")
        await receives(client, {"B": "1", "D": "1", "X": "2"})
        await says_no_more(setup, client)


@runs(*GROUPED)
async def test_what_is_created_later_comes_by_itself(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABCD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("A", "Z")
        await receives(client, {"A": "1"})
        await setup.offer(type_url, "Z", "2")
        await receives(client, {"Z": "2"})
        await says_no_more(setup, client)


# https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#unsubscribing-from-resources


@runs(*WHOLE)
async def test_fewer_names_and_then_a_change_of_one_that_is_left(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "FABCD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("C", "A", "B")
        await receives(client, dict.fromkeys("CAB", "1"))
        await client.want("A")
        await says_no_more(setup, client)  # the request is taken in before the change
        (probe,) = set(client.names[type_url]) - {"A"}
        await setup.offer(type_url, "B", "2")
        await setup.offer(type_url, "A", "2")
        await receives(client, {"A": "2", probe: "probe"})
        await says_no_more(setup, client)


@runs(*GROUPED)
async def test_fewer_names_and_then_only_what_is_left(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABCD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("B", "D")
        await receives(client, dict.fromkeys("BD", "1"))
        await client.want("B")
        await says_no_more(setup, client)
        await setup.offer(type_url, "D", "2")
        await setup.offer(type_url, "B", "2")
        await receives(client, {"B": "2"})
        await says_no_more(setup, client)


@runs(*WHOLE, *GROUPED)
async def test_no_names_after_names_are_no_interest(setup: Setup, type_url: str, aggregated: bool) -> None:
    await setup.offer(type_url, "ABCD", "1")
    async with setup.sotw(type_url, aggregated=aggregated) as client:
        await client.want("A", "B")
        await receives(client, dict.fromkeys("AB", "1"))
        await client.want()
        await setup.until(lambda: not any(entry.resources for entry in setup.server.status().clients[0].types))
        await setup.offer(type_url, "B", "2")
        await client.want("probe")  # answered without A and B: they were let go
        await setup.offer(type_url, ["probe"], "1")
        heard = await client.hear()
        while not heard.contents:  # the word that there is no probe yet
            await client.ack(heard)
            heard = await client.hear()
        assert heard.contents == {"probe": "1"}


@pytest.mark.parametrize(("one", "other"), [("CDS", "LDS"), ("RDS", "EDS")], ids=lambda name: str(name))
async def test_several_types_on_one_stream(setup: Setup, one: str, other: str) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#aggregated-discovery-service"""
    first, second = TYPES[one], TYPES[other]
    for type_url in (first, second):
        await setup.offer(type_url, "ABC", "1")
    async with setup.sotw(first) as client:
        for type_url in (first, second):
            await client.want("B", type_url=type_url)
            heard = await receives(client, {"B": "1"})
            assert heard.type_url == type_url
        await setup.offer(first, "B", "2")
        heard = await receives(client, {"B": "2"})
        assert heard.type_url == first
        await says_no_more(setup, client)
        await says_no_more(setup, client, second)
