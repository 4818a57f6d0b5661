from __future__ import annotations

import asyncio
import os

from lockgate.agent.playground import Playground
from lockgate.redirect.kernel import netns
from lockgate.redirect.kernel.links import Links


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
