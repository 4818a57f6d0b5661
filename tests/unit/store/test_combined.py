"""Several stores as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from lockgate.store import CombinedStore, Document, StoreContent


def content(name: str) -> StoreContent:
    return StoreContent((Document(f"{name}/p", b""),), (Document(f"{name}/w", b""),), (f"{name} is ill",))


class Told:
    """A store that has what it is told; None ends it."""

    def __init__(self, name: str) -> None:
        self.news: asyncio.Queue[StoreContent | Exception | None] = asyncio.Queue()
        self.first = content(name)

    async def read(self) -> StoreContent:
        return self.first

    async def changes(self) -> AsyncIterator[StoreContent]:
        while (came := await self.news.get()) is not None:
            if isinstance(came, Exception):
                raise came
            yield came


async def test_one_after_the_other() -> None:
    stores = Told("b"), Told("a")
    store = CombinedStore(stores)
    merged = await store.read()
    assert [document.source for document in merged.workloads] == ["b/w", "a/w"]
    assert merged.problems == ("b is ill", "a is ill")
    changes = store.changes()
    stores[1].news.put_nowait(content("c"))
    assert [document.source for document in (await anext(changes)).policies] == ["b/p", "c/p"]
    stores[0].news.put_nowait(content("d"))
    assert [document.source for document in (await anext(changes)).policies] == ["d/p", "c/p"]
    stores[0].news.put_nowait(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await anext(changes)


async def test_it_can_be_left_while_it_waits() -> None:
    store = CombinedStore([Told("a"), Told("b")])
    await store.read()

    async def follow() -> None:
        async for _ in store.changes():
            pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
