"""The agent's watch over the supervisor: whether it does what it is there for.

One that is stopped or stuck does no harm as long as there is nothing for it to do: ending it would end Envoy. It is
ended when Envoy is gone and it starts none, when Envoy hangs and it lets it, or when it does not replace it as it was
asked to, and only as long as it does nothing at all: one that cannot tell what it does (a full disk) is at work.
"""

from __future__ import annotations

from pathlib import Path

from .envoy_watch import EnvoyWatch, interval
from .run_files import ADMIN_SOCKET, RUNNING, WAITING, SupervisorState, start_ticks
from .silence import Silence
from .thread_looks import look_at

PATIENCE = 10.0  # seconds for what it owes
_LONGEST = 2.0  # that the time between two looks counts as


class SupervisorWatch:
    """Looked with once a second or so. `limit`: as that of HangWatch, which the supervisor should have."""

    def __init__(self, run_dir: Path, limit: float) -> None:
        self._admin = run_dir / ADMIN_SOCKET
        self._limit = limit
        self._pid = 0
        self._idle = Silence(_LONGEST)
        self._owing = Silence(_LONGEST)
        self._envoy: tuple[int, EnvoyWatch] | None = None

    @property
    def idle(self) -> bool:
        """It does nothing, though it should look at Envoy."""
        return bool(self._limit) and self._idle.seconds >= PATIENCE

    def hangs(self, now: float, state: SupervisorState, asked: bool) -> bool:
        """True when it has to be ended. `asked`: it was told to replace Envoy, and has not heard of it."""
        pid = state.supervisor_pid
        if pid != self._pid:
            self._pid, self._idle, self._owing = pid, Silence(_LONGEST), Silence(_LONGEST)
            self.close()
        seen = look_at(pid, pid)
        looks = state.phase == RUNNING and state.hang != 0
        self._idle.look(now, seen, answers=None if looks else True)
        self._owing.look(now, seen, answers=None if asked or self._owes(now, state) else True)
        return self._owing.seconds >= PATIENCE

    def close(self) -> None:
        """Looks no more at Envoy, until it is asked again."""
        if self._envoy is not None:
            self._envoy[1].close()
        self._envoy = None

    def _owes(self, now: float, state: SupervisorState) -> bool:
        if state.phase == WAITING:
            return state.next_try is not None and state.next_try < now
        if state.phase != RUNNING:
            return False
        return start_ticks(state.envoy_pid) != state.envoy_ticks or self._lets_hang(now, state)

    def _lets_hang(self, now: float, state: SupervisorState) -> bool:
        if not self._limit or self._idle.seconds < 3 * interval(self._limit):
            self.close()
            return False
        if self._envoy is None or self._envoy[0] != state.envoy_pid:
            self.close()
            self._envoy = (state.envoy_pid, EnvoyWatch(state.envoy_pid, self._limit))
        watch = self._envoy[1]
        watch.look(now, self._admin if state.starting is None else None)
        return watch.longest[0] >= self._limit
