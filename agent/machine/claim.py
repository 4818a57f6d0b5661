"""What an agent does first: it looks at the machine, claims its places on it, and sends the eBPF programs on their way.

Needs little, so it is done before the rest of an agent is imported: that takes as long as compiling the programs does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...envoy.running.binary import EnvoyBinary, find_binary
from ...envoy.running.module_file import ModuleFile, find_module
from ...redirect.opening import Opening
from ..settings import Settings
from .host import make_own_dir, require_host, require_port
from .lock import AgentLock


@dataclass(frozen=True, slots=True)
class Claim:
    """What one agent has for itself: Envoy's binary and the module for it, and its folder of pins."""

    binary: EnvoyBinary
    module: ModuleFile
    datapath: Opening


@contextmanager
def claim(settings: Settings) -> Iterator[Claim]:
    """Everything is let go of at the end, and the folder of pins taken away if nothing came of it.

    Raises:
        HostError, AlreadyRunningError, EnvoyError, RedirectError: there can be no agent here.
    """
    require_host()
    binary = find_binary(settings.envoy)
    module = find_module(binary)
    make_own_dir(settings.run_dir, "--run-dir")
    make_own_dir(settings.state_dir, "--state-dir")
    with AgentLock(settings.run_dir):
        require_port(settings)
        opening = Opening(settings.pin_dir, settings.cache_dir, host_routing=settings.host_routing)
        try:
            yield Claim(binary, module, opening)
        finally:
            opening.give_up()


__all__ = ["Claim", "claim"]
