from __future__ import annotations

import asyncio
import os
from pathlib import Path

from lockgate.agent.playground import Playground
from lockgate.redirect.kernel import netns
from lockgate.redirect.kernel.links import Links

NETLINK = Path("/proc/thread-self/net/netlink")


async def test_a_new_pod_is_news_and_quiet_is_quiet() -> None:
    with Playground(f"links{os.getpid()}") as ground:
        links = netns.run_in(ground.node.path, Links)
        async with links:
            for _ in range(20):  # the news of the namespace itself may still be on their way
                quiet = asyncio.create_task(anext(links))
                done, _ = await asyncio.wait([quiet], timeout=0.2)
                if not done:
                    break
            assert not done
            ground.pod("one")
            await asyncio.wait_for(quiet, 10)


async def test_news_that_the_kernel_has_lost_are_news_and_more_come() -> None:
    with Playground(f"flood{os.getpid()}") as ground:
        links = netns.run_in(ground.node.path, Links)
        async with links:
            before = lost(ground, links)
            news = [f"addr add 10.1.{number // 200}.{number % 200 + 1}/32 dev lo\n" for number in range(1000)]
            ended = ground.node.run(["ip", "-batch", "-"], input="".join(news))  # while nobody reads
            assert ended.returncode == 0, ended.stderr
            assert lost(ground, links) > before, "the socket was not overrun"
            await asyncio.wait_for(anext(links), 10)
            while True:  # until it is quiet again
                quiet = asyncio.create_task(anext(links))
                done, _ = await asyncio.wait([quiet], timeout=0.2)
                if not done:
                    break
            ground.pod("one")
            await asyncio.wait_for(quiet, 10)


def lost(ground: Playground, links: Links) -> int:
    """Messages that did not fit, as the kernel counts them for each socket."""
    inode = os.fstat(links._socket.fileno()).st_ino
    lines = [line.split() for line in netns.run_in(ground.node.path, NETLINK.read_text).splitlines()]
    return sum(int(fields[8]) for fields in lines if fields[-1] == str(inode))
