"""The node's transparent DNS proxy. The kernel assigns it what dns rules cover; it judges each question by name, sends
the allowed ones on from the client's own address, and holds an answer back until its addresses may be connected to.

It runs in the agent: without an agent the kernel finds no socket and drops what dns rules cover. Addresses that were
learned stay in the kernel's maps.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping

from ...policies import World
from ..errors import HostError
from .judge import DnsJudge
from .relay import Event, Learn, Limits, Relay
from .tcp import TcpSide
from .udp import UdpSide

_OTHER_FILES = 512


class DnsProxy:
    """Listens on `port` of 127.0.0.1 and ::1 between `open` and `close`. Before the first `use` nobody is served."""

    def __init__(self, port: int, learn: Learn, limits: Limits | None = None) -> None:
        self._port = port
        self._relay = Relay(learn, limits or Limits())
        self._udp = UdpSide(self._relay, port)
        self._tcp = TcpSide(self._relay, port)

    async def open(self) -> None:
        """Listens in the network namespace of the caller.

        Raises:
            HostError: the port is taken, or transparent sockets are not possible.
        """
        _allow_files(self._relay.limits)
        try:
            self._udp.open()
            await self._tcp.open()
        except OSError as error:
            await self.close()
            raise HostError(
                f"the DNS proxy's port {self._port} on 127.0.0.1 and ::1 cannot be used ({error.strerror}): find its "
                f"user with 'ss -lntup sport = :{self._port}' and stop it, or set another dns_port in the --config file"
            ) from None

    async def close(self) -> None:
        """Stops; what was asked gets no answer."""
        self._udp.close()
        await self._tcp.close()

    def use(self, world: World) -> None:
        """Judges by this world from the next question on."""
        self._relay.judge = DnsJudge(world)

    def counters(self) -> Mapping[Event, int]:
        """How often what has happened since the start."""
        return {event: self._relay.events[event] for event in Event}


def _allow_files(limits: Limits) -> None:
    """Every question over UDP has a socket for as long as it is under way."""
    wanted = limits.questions + 2 * limits.connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
