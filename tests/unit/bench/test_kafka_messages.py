from __future__ import annotations

import struct

import pytest
from lockgate.bench.kafka_messages import error_of_produce, fetch, fetched, produce, produced, works


@pytest.mark.parametrize("frame", [produce("orders", 300), produced("orders"), fetch("orders"), fetched("orders", 7)])
def test_a_frame_says_how_long_it_is(frame: bytes) -> None:
    assert struct.unpack_from(">i", frame)[0] == len(frame) - 4


def test_a_request_begins_with_api_version_correlation_and_client() -> None:
    frame = produce("orders", 1, correlation=9)
    assert frame[4:19] == struct.pack(">hhih", 0, 9, 9, 5) + b"bench"


@pytest.mark.parametrize("topic", ["orders", "x" * 200])
@pytest.mark.parametrize("error", [0, 29])
def test_the_error_of_a_response_is_found(topic: str, error: int) -> None:
    assert error_of_produce(produced(topic, error), topic) == error


def test_records_are_what_the_titles_say() -> None:
    sizes = {work.title: (len(work.request), len(work.response)) for work in works()}
    assert [sizes[title][side] // 65536 for title, side in (("Produce of 64 KiB", 0), ("Fetch of 64 KiB", 1))] == [1, 1]
    assert 100 < sizes["Produce of 100 bytes"][0] < 200
