"""The directory store: what it reads, what it notices, and what it does when the disk misbehaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from lockgate.store import DirectoryStore, PathError, StoreContent
from lockgate.store.directory import _Tree
from lockgate.store.watch import FolderWatch
from lockgate.store.whole import keep_writers_away

FEW_OF_INOTIFY = """
import asyncio, sys
from pathlib import Path
from lockgate.store import DirectoryStore

async def look(folder):
    store = DirectoryStore(folder / "policies", folder / "workloads.yaml")
    print([each.data for each in (await store.read()).policies], flush=True)
    async for content in store.changes():
        print([each.data for each in content.policies], flush=True)
        return

Path(f"/proc/sys/user/{sys.argv[1]}").write_text(sys.argv[2])
asyncio.run(look(Path(sys.argv[3])))
"""


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


async def test_a_folder_that_vanishes_with_news_of_its_files_keeps_them_too(
    store: DirectoryStore, tmp_path: Path
) -> None:
    """News of single files are looked at alone; that they are gone must not read as their deletion."""
    content = await store.read()
    gone = str(tmp_path / "policies" / "a.yaml")
    shutil.move(tmp_path / "policies", tmp_path / "elsewhere")
    now = store._scan([gone])
    assert now.policies == content.policies
    assert now.problems == (f"{tmp_path}/policies: No such file or directory; what was read before stays in force",)
    shutil.move(tmp_path / "elsewhere", tmp_path / "policies")
    (tmp_path / "policies" / "a.yaml").unlink()
    assert store._scan([gone]).policies == ()


async def test_a_folder_that_vanishes_while_it_is_read_keeps_what_was_read(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = await store.read()
    files = _Tree._files

    def listed(tree: _Tree) -> list[tuple[str, Callable[[], os.stat_result]]]:
        found = list(files(tree))
        if tree.path.name == "policies":
            shutil.move(tree.path, tmp_path / "elsewhere")
        return [(source, partial(os.stat, source)) for source, _ in found]

    monkeypatch.setattr(_Tree, "_files", listed)
    now = store._scan()
    assert now.policies == content.policies
    assert len(now.problems) == 1


async def test_an_oversized_file_is_a_failure_of_that_file_only(store: DirectoryStore, tmp_path: Path) -> None:
    with (tmp_path / "policies" / "big.yaml").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    content = await store.read()
    assert content.policies[0].failure == ""
    assert "over the limit" in content.policies[1].failure


async def test_what_is_no_file_is_a_failure_and_nobody_waits_for_it(store: DirectoryStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policies" / "pipe.yaml")
    (tmp_path / "policies" / "zero.yaml").symlink_to("/dev/zero")
    failures = {Path(each.source).name: each.failure for each in (await store.read()).policies if each.failure}
    sentence = "no plain file; nothing else is read in a folder"
    assert failures == {"pipe.yaml": sentence, "zero.yaml": sentence}


async def test_what_is_told_of_single_files_is_what_a_whole_look_finds(store: DirectoryStore, tmp_path: Path) -> None:
    """Every kind of change, told by the watch, against a store that looks at everything."""
    policies = tmp_path / "policies"
    await store.read()
    async with watching(store) as queue:
        steps = (
            lambda: (policies / "b.yaml").write_text("b: 1\n"),
            lambda: (policies / ".c.yaml").write_text("c: 1\n"),
            lambda: (policies / ".c.yaml").rename(policies / "0.yaml"),
            lambda: (policies / "b.yaml").unlink(),
            lambda: (policies / "team").mkdir(),
            lambda: (policies / "team" / "d.yml").write_text("d: 1\n"),
            lambda: (policies / "team").rename(policies / "club"),
            lambda: (policies / "club" / "d.yml").write_text("d: 2\n"),
            lambda: shutil.rmtree(policies / "club"),
            lambda: (policies / "a.test.yaml").write_text("no policy\n"),
            lambda: (policies / "a.yaml").write_text("a: 2\n"),
        )
        for step in steps:
            step()
            fresh = await DirectoryStore(policies, tmp_path / "workloads.yaml").read()
            while fresh != await store_content(store, queue, fresh):
                pass


async def test_a_file_that_an_editor_takes_away_for_a_moment_stays_in_force(
    store: DirectoryStore, tmp_path: Path
) -> None:
    """Many editors rename the old file to a backup before they write the new one."""
    await store.read()
    path = tmp_path / "policies" / "a.yaml"
    async with watching(store) as queue:
        path.rename(tmp_path / "policies" / "a.yaml~")
        await asyncio.sleep(0)
        path.write_text("a: 2\n")
        content = await next_change(queue)
    assert [document.data for document in content.policies] == [b"a: 2\n"]


async def test_files_of_a_folder_that_is_moved_in_and_changed_are_seen(store: DirectoryStore, tmp_path: Path) -> None:
    await store.read()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "b.yaml").write_text("b: 1\n")
    async with watching(store) as queue:
        (tmp_path / "made").rename(tmp_path / "policies" / "made")
        assert [document.data for document in (await next_change(queue)).policies] == [b"a: 1\n", b"b: 1\n"]
        (tmp_path / "policies" / "made").rename(tmp_path / "policies" / "renamed")
        content = await next_change(queue)
        assert [Path(document.source).parent.name for document in content.policies] == ["policies", "renamed"]
        (tmp_path / "policies" / "renamed" / "b.yaml").write_text("b: 2\n")
        assert [document.data for document in (await next_change(queue)).policies] == [b"a: 1\n", b"b: 2\n"]


async def store_content(
    store: DirectoryStore, queue: asyncio.Queue[StoreContent], wanted: StoreContent
) -> StoreContent:
    """What the store tells last; at once when that is what is wanted (a step may change nothing)."""
    last = store._content
    return last if last == wanted else await next_change(queue)


async def test_files_behind_a_link_that_is_swapped_are_read_anew(tmp_path: Path) -> None:
    """As Kubernetes writes a ConfigMap: ..data points to a folder, and the names point into ..data."""
    policies = tmp_path / "policies"
    for version in ("one", "two"):
        (policies / f"..{version}").mkdir(parents=True)
        (policies / f"..{version}" / "p.yaml").write_text(f"{version}: 1\n")
    (policies / "..data").symlink_to("..one")
    (policies / "p.yaml").symlink_to("..data/p.yaml")
    (tmp_path / "workloads.yaml").write_text("workloads: []\n")
    store = DirectoryStore(policies, tmp_path / "workloads.yaml")
    assert [document.data for document in (await store.read()).policies] == [b"one: 1\n"]
    async with watching(store) as queue:
        (policies / "..data_tmp").symlink_to("..two")
        (policies / "..data_tmp").rename(policies / "..data")
        assert [document.data for document in (await next_change(queue)).policies] == [b"two: 1\n"]


async def test_a_file_that_is_being_written_keeps_what_was_read(store: DirectoryStore, tmp_path: Path) -> None:
    """As by `kubectl get cnp -o yaml > a.yaml`: it is empty until the answer is there, and half of it is no policy."""
    await store.read()
    policies = tmp_path / "policies"
    async with watching(store) as queue:
        with (policies / "a.yaml").open("w") as writer:
            for part in ("", "a: 2\n"):
                writer.write(part)
                writer.flush()
                (document,) = store._scan().policies
                assert document.failure.startswith("it is being written")
        content = await next_change(queue)
        while content.policies[0].failure:
            content = await next_change(queue)
        assert content.policies[0].data == b"a: 2\n"


async def test_whoever_reads_keeps_nobody_from_writing(store: DirectoryStore, tmp_path: Path) -> None:
    path = tmp_path / "policies" / "a.yaml"
    with path.open("rb") as reader:
        assert keep_writers_away(reader.fileno())
        writing = asyncio.create_task(asyncio.to_thread(path.write_text, "a: 2\n"))
        await asyncio.sleep(0.1)
        assert path.read_text() == "a: 1\n", "the writer waits, and the process lives on"
    await asyncio.wait_for(writing, 20)
    assert (await store.read()).policies[0].data == b"a: 2\n"


async def test_a_change_that_keeps_size_and_time_is_seen(store: DirectoryStore, tmp_path: Path) -> None:
    await store.read()
    path = tmp_path / "policies" / "a.yaml"
    before = path.stat()
    with path.open("r+") as file:
        file.write("b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store._scan().policies[0].data == b"b: 1\n"


async def test_folders_behind_links_are_read_once(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "b.yaml").write_text("b: 1\n")
    (tmp_path / "team" / "back").symlink_to(tmp_path / "policies")
    (tmp_path / "policies" / "linked").symlink_to(tmp_path / "team")
    content = await store.read()
    assert [document.data for document in content.policies] == [b"a: 1\n", b"b: 1\n"]
    async with watching(store) as queue:
        (tmp_path / "team" / "b.yaml").write_text("b: 2\n")
        assert (await next_change(queue)).policies[1].data == b"b: 2\n"


@pytest.mark.parametrize("linked", ["b.yaml", "linked"])
async def test_what_a_link_led_to_stays_when_it_leads_to_nothing(
    store: DirectoryStore, tmp_path: Path, linked: str
) -> None:
    """What it led to may be on a file system that is not mounted just now."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "b.yaml").write_text("b: 1\n")
    link = tmp_path / "policies" / linked
    link.symlink_to(mounted / "b.yaml" if linked == "b.yaml" else mounted)
    first = await store.read()
    assert len(first.policies) == 2
    shutil.move(mounted, tmp_path / "away")
    for _ in range(2):
        now = store._scan()
        assert [document.source for document in now.policies] == [document.source for document in first.policies]
        assert now.problems or now.policies[1].failure == "a link to nothing"
    link.unlink()
    assert len(store._scan().policies) == 1


def flood(folder: Path) -> None:
    """More news than the kernel keeps of a folder: made, closed and deleted."""
    for number in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 3 + 10):
        path = folder / f"{number}.yaml"
        path.write_bytes(b"")
        path.unlink()


async def test_news_that_the_kernel_has_lost_are_news(tmp_path: Path) -> None:
    with FolderWatch() as watch:
        watch.follow([str(tmp_path)])
        flood(tmp_path)
        look = await watch.next(time.monotonic() + 60)
        assert look.everything


def test_changes_are_seen_where_inotify_has_no_room(store: DirectoryStore, tmp_path: Path) -> None:
    """In user namespaces, where its limits are their own."""
    alone = ["unshare", "--user", "--map-root-user", sys.executable, "-P", "-c", FEW_OF_INOTIFY]
    limits = (("max_inotify_instances", "0"), ("max_inotify_watches", "0"), ("max_inotify_watches", "1"))
    with ExitStack() as stack:
        watchers = [
            stack.enter_context(subprocess.Popen([*alone, *limit, str(tmp_path)], stdout=subprocess.PIPE, text=True))
            for limit in limits
        ]
        for watcher in watchers:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "[b'a: 1\\n']\n"
        (tmp_path / "policies" / "a.yaml").write_text("a: 2\n")
        for watcher in watchers:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "[b'a: 2\\n']\n"
