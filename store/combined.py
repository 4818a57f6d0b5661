"""Several stores as one: a folder of policies and workloads, and engines with containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from .content import Store, StoreContent


class CombinedStore:
    """The contents of all, one after the other: what two of them list twice is the first one's."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores
        self._contents: list[StoreContent] = []

    async def read(self) -> StoreContent:
        """Reads every store. Raises StoreError as the first that cannot be read."""
        self._contents = [await store.read() for store in self._stores]
        return self._merged()

    async def changes(self) -> AsyncIterator[StoreContent]:
        """The content after a change of any store; ends with the error of one that fails."""
        news: asyncio.Queue[tuple[int, StoreContent]] = asyncio.Queue()

        async def follow(number: int, store: Store) -> None:
            async for content in store.changes():
                news.put_nowait((number, content))

        followers = [asyncio.create_task(follow(number, store)) for number, store in enumerate(self._stores)]
        try:
            while True:
                came = asyncio.ensure_future(news.get())
                try:
                    await asyncio.wait([came, *followers], return_when=asyncio.FIRST_COMPLETED)
                    if not came.done():
                        next(task for task in followers if task.done()).result()
                        return
                    number, self._contents[number] = came.result()
                finally:
                    came.cancel()
                yield self._merged()
        finally:
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    def _merged(self) -> StoreContent:
        contents = self._contents
        return StoreContent(
            tuple(document for content in contents for document in content.policies),
            tuple(document for content in contents for document in content.workloads),
            tuple(problem for content in contents for problem in content.problems),
            tuple(dict.fromkeys(network for content in contents for network in content.networks)),
            next((content.pods for content in contents if content.pods is not None), None),
        )
