from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from lockgate.redirect.ipcache_map import Generation
from lockgate.redirect.plan import Owner
from lockgate.tests.e2e.pinned_ipcache import PinnedIpcache, pinned_ipcache

NETWORK = ip_network("10.0.0.1")


@pytest.fixture(name="pinned")
def an_ipcache() -> Iterator[PinnedIpcache]:
    with pinned_ipcache({}) as pinned:
        yield pinned


def test_every_change_is_another_generation_at_rest(pinned: PinnedIpcache) -> None:
    seen = [pinned.generation.value]
    for _ in range(2):
        pinned.set({NETWORK: Owner(7)})
        seen.append(pinned.generation.value)
        pinned.remove([NETWORK])
        seen.append(pinned.generation.value)
    assert seen == sorted(set(seen)) and not any(value % 2 for value in seen)


def test_what_changes_nothing_is_none(pinned: PinnedIpcache) -> None:
    before = pinned.generation.value
    pinned.set({})
    pinned.remove([])
    assert pinned.generation.value == before


def test_it_is_odd_meanwhile_and_even_also_after_a_failure(pinned: PinnedIpcache) -> None:
    before = pinned.generation.value
    with pytest.raises(RuntimeError), pinned.generation.change():
        assert pinned.generation.value == before + 1
        raise RuntimeError
    assert pinned.generation.value == before + 2


def test_another_sees_it_and_goes_on_where_a_writer_died(pinned: PinnedIpcache) -> None:
    died = pinned.generation.change()
    died.__enter__()
    odd = pinned.generation.value
    successor = Generation(pinned.envoy.pin.parent)
    assert (successor.id, successor.value, odd % 2) == (pinned.generation.id, odd, 1)
    with successor.change():
        assert successor.value == odd
    assert pinned.generation.value == odd + 1
    successor.close()
    died.__exit__(None, None, None)
