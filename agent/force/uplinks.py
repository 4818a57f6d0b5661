"""The programs at the node's uplinks, which follow its interfaces as they come and go."""

from __future__ import annotations

from collections.abc import Sequence

from ...policies import World
from ...redirect.datapath import Datapath
from ...redirect.errors import RedirectError
from ...redirect.uplink import choose, interfaces
from ...store import PodNetwork


class Uplinks:
    """Blocking, and for one thread at a time, as the data path is."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath

    def sync(self, named: Sequence[str] | None, world: World | None, pods: PodNetwork | None = None) -> tuple[str, ...]:
        """Attaches where there are none yet, and takes away what is at no uplink. `named` are those the user chose,
        `world` is what is in force. An interface of `pods` is none, known or not. A sentence for each that failed."""
        endpoints = {endpoint.ifindex for endpoint in world.endpoints} if world else set()
        prefixes = pods.prefixes if pods is not None else ()
        wanted = choose(interfaces(), endpoints | self._datapath.attached(), named, prefixes)
        problems = list(wanted.problems)
        selected = world is not None and world.host is not None
        if selected and not wanted.chosen:
            problems.append(
                "a policy selects this node, which has no uplink to enforce it at: name the node's interfaces under "
                "uplinks in --config"
            )
        held = self._datapath.uplinks()
        for uplink in wanted.chosen:
            if uplink.ifindex in held:
                continue
            try:
                self._datapath.attach_uplink(uplink.ifindex, ethernet=uplink.ethernet)
            except RedirectError as error:
                problems.append(
                    f"uplink {uplink.name}: {error}; requests that arrive there are dropped"
                    + (", and the policies of the node do not hold there" if selected else "")
                )
        for ifindex in held - {uplink.ifindex for uplink in wanted.chosen}:
            self._datapath.detach_uplink(ifindex)
        return tuple(problems)
