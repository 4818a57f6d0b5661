"""Two pods and the kernel's routing between them, nothing else."""

from __future__ import annotations

from lockgate.agent.playground import Playground

from .mode import Mode


class Direct(Mode):
    """The floor: what the pods, the origin and the load cost by themselves."""

    key = "direct"
    title = "direct"
    forbidden = "200"
    intruder_gets = "200"
    proxied = False

    def _engage(self, playground: Playground) -> None:
        pass

    def counted(self) -> tuple[int, ...]:
        return ()
