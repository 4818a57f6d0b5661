"""The directory store: what it reads, what it notices, and what it does when the disk misbehaves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from lockgate.store import DirectoryStore, PathError, StoreContent


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.yaml").write_text("a: 1\n")
    (tmp_path / "workloads.yaml").write_text("workloads: []\n")
    return DirectoryStore(tmp_path / "policies", tmp_path / "workloads.yaml")


@asynccontextmanager
async def watching(store: DirectoryStore) -> AsyncIterator[asyncio.Queue[StoreContent]]:
    """The store's changes in a queue, from a moment when it surely watches."""
    queue: asyncio.Queue[StoreContent] = asyncio.Queue()

    async def follow() -> None:
        async for content in store.changes():
            queue.put_nowait(content)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.3)
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def next_change(queue: asyncio.Queue[StoreContent]) -> StoreContent:
    return await asyncio.wait_for(queue.get(), timeout=20)


async def test_reads_yaml_files_in_order_and_leaves_others_out(store: DirectoryStore, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    (policies / "team").mkdir()
    (policies / "team" / "b.yml").write_text("b: 1\n")
    (policies / "notes.txt").write_text("no\n")
    (policies / ".hidden.yaml").write_text("no\n")
    (policies / ".git").mkdir()
    (policies / ".git" / "c.yaml").write_text("no\n")
    content = await store.read()
    assert [Path(document.source).name for document in content.policies] == ["a.yaml", "b.yml"]
    assert [document.data for document in content.workloads] == [b"workloads: []\n"]


async def test_a_missing_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "workloads.yaml").write_text("")
    with pytest.raises(PathError, match=r"nowhere: no such file"):
        await DirectoryStore(tmp_path / "nowhere", tmp_path / "workloads.yaml").read()


async def test_changes_additions_and_deletions_are_seen(store: DirectoryStore, tmp_path: Path) -> None:
    await store.read()
    policies = tmp_path / "policies"
    async with watching(store) as queue:
        (policies / "a.yaml").write_text("a: 2\n")
        content = await next_change(queue)
        assert [document.data for document in content.policies] == [b"a: 2\n"]

        (policies / "b.yaml").write_text("b: 1\n")
        content = await next_change(queue)
        assert [document.data for document in content.policies] == [b"a: 2\n", b"b: 1\n"]

        (policies / "a.yaml").unlink()
        content = await next_change(queue)
        assert [document.data for document in content.policies] == [b"b: 1\n"]


async def test_a_single_file_replaced_by_rename_is_seen(store: DirectoryStore, tmp_path: Path) -> None:
    await store.read()
    async with watching(store) as queue:
        (tmp_path / "new").write_text("workloads: [1]\n")
        (tmp_path / "new").rename(tmp_path / "workloads.yaml")
        content = await next_change(queue)
        assert [document.data for document in content.workloads] == [b"workloads: [1]\n"]


async def test_unchanged_documents_are_the_same_objects(store: DirectoryStore, tmp_path: Path) -> None:
    first = await store.read()
    (tmp_path / "policies" / "b.yaml").write_text("b: 1\n")
    second = await store.read()
    assert second.policies[0] is first.policies[0]


async def test_a_folder_that_vanishes_keeps_what_was_read(store: DirectoryStore, tmp_path: Path) -> None:
    first = await store.read()
    async with watching(store) as queue:
        shutil.move(tmp_path / "policies", tmp_path / "away")
        content = await next_change(queue)
        while not content.problems:
            content = await next_change(queue)
    assert content.policies == first.policies
    assert "stays in force" in content.problems[0]


async def test_an_oversized_file_is_a_failure_of_that_file_only(store: DirectoryStore, tmp_path: Path) -> None:
    with (tmp_path / "policies" / "big.yaml").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    content = await store.read()
    assert content.policies[0].failure == ""
    assert "over the limit" in content.policies[1].failure
