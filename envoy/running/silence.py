"""How long a thread has done nothing, of the time in which it could have. Pure: somebody else looks at it.

Envoy's main thread and its workers wake several times a second also when nobody wants anything (a timer of Envoy's own
watchdog), and a thread that works reads and writes. So one that neither went to sleep nor read or wrote since it was
looked at last has not come round: it is stopped, waits for ever, or spins. That is held against it only for the time in
which it could have come round:

    stopped, asleep         the time between the looks, but for what it waited for a CPU
    runnable                what it had of a CPU, and the hypervisor did not take: one that is starved gets none
    in the debugger's hand, dead, waiting for a disk     nothing

The time between two looks counts as `longest` at most: who looks late was starved, stopped or suspended himself.
"""

from __future__ import annotations

from typing import NamedTuple

_RUNNABLE = "R"
_WAITING = ("S", "T")  # asleep; stopped by a signal


class ThreadLook(NamedTuple):
    """One look at a thread: proc_pid_stat(5), proc_pid_status(5), proc_pid_io(5)."""

    state: str
    sleeps: int  # how often it went to sleep by itself
    calls: int  # reads and writes
    ran: float = 0.0  # seconds, as the next two
    waited: float = 0.0  # for a CPU
    stolen: float = 0.0  # from the CPU that it was on last

    def came_round(self, before: ThreadLook) -> bool:
        """True when it did something since."""
        return (self.sleeps, self.calls) != (before.sleeps, before.calls)


class Silence:
    """Of one thread. `seconds` is what is held against it."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._last: tuple[float, ThreadLook] | None = None
        self.seconds = 0.0

    def look(self, now: float, seen: ThreadLook | None, answers: bool | None = None) -> None:
        """`answers`: whether it has answered to what it was asked at the look before or earlier, which then counts for
        more than what it did; None when it was asked nothing. `seen` is None when nobody could look."""
        before, self._last = self._last, (now, seen) if seen is not None else None
        if answers:
            self.seconds = 0.0
        elif before is not None and seen is not None:
            when, known = before
            if answers is None and seen.came_round(known):
                self.seconds = 0.0
            else:
                self.seconds += self._lost(min(now - when, self._longest), seen, known)

    @staticmethod
    def _lost(between: float, seen: ThreadLook, before: ThreadLook) -> float:
        if seen.state == _RUNNABLE:
            ran = seen.ran - before.ran - max(0.0, seen.stolen - before.stolen)
            return min(between, max(0.0, ran))
        if seen.state in _WAITING:
            return max(0.0, between - (seen.waited - before.waited))
        return 0.0
