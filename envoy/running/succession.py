"""Which Envoys there are and what becomes of each: the supervisor's decisions, without any I/O.

One Envoy serves. A hot restart starts a second one beside it, which takes the listening sockets over when it is ready;
the first then leaves: it answers what it still has until its time is up. Whatever dies at whatever moment, one of these
holds: somebody serves, somebody is about to, or the next start has its time.

    serving               died: start anew, cold, after a back-off
                          not ready yet: a restart that is asked for kills it, as nothing is lost with it
    serving + starting    starting died before it took over: serving goes on, another try after a back-off
                          starting died after it took over: serving accepts no more and leaves, start cold
                          serving died: starting may wait for its answers for ever, so it is killed, start cold
                          starting took over: it serves, the other leaves
    serving hangs         it is killed, and has died; so is one that hangs while it leaves
    serving + leaving     leaving died: a restart that was asked for meanwhile begins
                          serving died: start cold; leaving goes on until its time is up
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .backoff import Backoff


@dataclass(frozen=True, slots=True)
class Start:
    """Start an Envoy; `hot` is beside the one that serves, as its successor. A cold one has epoch 0."""

    epoch: int

    @property
    def hot(self) -> bool:
        """True for a successor."""
        return self.epoch > 0


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask a process to end."""

    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Mend:
    """The shared memory still says that a successor is being initialised, but it is dead: take that back."""


Action: TypeAlias = Start | Terminate | Kill | Mend


@dataclass(frozen=True, slots=True)
class Child:
    """An Envoy that runs since `since`."""

    pid: int
    epoch: int
    since: float


class Succession:
    """Told what happened (with the moment, in seconds of one clock), it answers what to do, in order.

    `drain`: seconds that one which leaves has at most. `patience`: seconds for a successor to take over. `grace`:
    seconds from being asked to end to being killed.
    """

    def __init__(self, backoff: Backoff, hot_backoff: Backoff, drain: float, patience: float, grace: float) -> None:
        self.drain = drain
        self.patience = patience
        self.grace = grace
        self._backoff = backoff
        self._hot_backoff = hot_backoff
        self.serving: Child | None = None
        self.starting: Child | None = None
        self.leaving: Child | None = None
        self.stopping = False
        self.ready = False  # the one that serves has been seen to accept connections
        self.asked = False  # a hot restart was asked for and has not begun
        self.next_try: float | None = None  # of the next start, cold when nobody serves
        self.tries_failed = 0  # hot restarts since one succeeded
        self._start_by: float | None = None
        self._leave_by: float | None = None
        self._kill_at: float | None = None

    @property
    def children(self) -> list[Child]:
        """All that run."""
        return [child for child in (self.serving, self.starting, self.leaving) if child is not None]

    @property
    def over(self) -> bool:
        """True when it was told to stop and nothing runs any more."""
        return self.stopping and not self.children

    def begin(self) -> list[Action]:
        """The first start."""
        return [Start(0)]

    def started(self, pid: int, start: Start, now: float) -> None:
        """What `Start` led to."""
        child = Child(pid, start.epoch, now)
        if start.hot:
            self.starting, self._start_by = child, now + self.patience
        else:
            self.serving, self.ready = child, False

    def not_started(self, start: Start, now: float) -> None:
        """`Start` led to nothing: the machine has no room for another process."""
        if start.hot:
            self.tries_failed += 1
        self.next_try = now + (self._hot_backoff if start.hot else self._backoff).exited(0.0)

    def accepts(self) -> None:
        """The one that serves accepts connections."""
        self.ready = True

    def retry(self, now: float) -> None:
        """The one that serves is not what is wanted: its replacement is tried again after a back-off."""
        if not self.stopping and self.next_try is None and self.starting is None:
            self.next_try = now + self._hot_backoff.exited(0.0)

    def restart(self, now: float) -> list[Action]:
        """Another Envoy is wanted in place of the one that serves. When nobody does, the next start comes at once."""
        if self.stopping:
            return []
        if self.serving is None:
            self._backoff.forget()
            self.next_try = None
            return [Start(0)]
        if not self.ready:
            self.asked = True
            return [Kill(self.serving.pid)]
        if self.starting is not None or self.leaving is not None:
            self.asked = True
            return []
        return self._hot()

    def took_over(self, now: float) -> list[Action]:
        """The successor has the listening sockets, and the other accepts no more."""
        if self.starting is None:
            return []
        self.leaving, self.serving, self.starting = self.serving, self.starting, None
        self._start_by = None
        self.ready = True
        self.tries_failed = 0
        self._hot_backoff.forget()
        if self.leaving is not None:
            self._leave_by = now + self.drain + self.grace  # its successor asks it to end before that
        return []

    def exited(self, pid: int, accepting: bool, now: float) -> list[Action]:
        """A process ended. `accepting`: the one that serves still accepts connections."""
        if self.starting is not None and self.starting.pid == pid:
            return self._starting_exited(self.starting, accepting, now)
        if self.serving is not None and self.serving.pid == pid:
            return self._serving_exited(self.serving, now)
        if self.leaving is not None and self.leaving.pid == pid:
            self.leaving, self._leave_by = None, None
            if not self.stopping:
                self._kill_at = None
            if self.asked and self.ready and self.serving is not None and not self.stopping:
                return self._hot()
        return []

    def hangs(self, pid: int) -> list[Action]:
        """A process does nothing any more. A hot restart is of no use: the successor would ask it, and wait."""
        known = [child.pid for child in (self.serving, self.leaving) if child is not None]
        return [Kill(pid)] if pid in known and not self.stopping else []

    def stop(self, now: float) -> list[Action]:
        """All are to end."""
        self.stopping, self.asked = True, False
        self.next_try = self._start_by = self._leave_by = None
        self._kill_at = now + self.grace
        return [Terminate(child.pid) for child in self.children]

    def due(self, now: float) -> list[Action]:
        """What the clock asks for."""
        actions: list[Action] = []
        if self.next_try is not None and now >= self.next_try:
            self.next_try = None
            actions += self._again()
        if self._start_by is not None and now >= self._start_by and self.starting is not None:
            self._start_by = None
            actions.append(Kill(self.starting.pid))
        if self._leave_by is not None and now >= self._leave_by and self.leaving is not None:
            self._leave_by = None
            self._kill_at = now + self.grace
            actions.append(Terminate(self.leaving.pid))
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            doomed = self.children if self.stopping else [self.leaving] if self.leaving is not None else []
            actions += [Kill(child.pid) for child in doomed]
        return actions

    @property
    def next_due(self) -> float | None:
        """When `due` has something to say."""
        moments = (self.next_try, self._start_by, self._leave_by, self._kill_at)
        return min((each for each in moments if each is not None), default=None)

    def _again(self) -> list[Action]:
        if self.serving is None:
            return [Start(0)]
        if self.leaving is not None:
            self.asked = True
            return []
        return self._hot()

    def _hot(self) -> list[Action]:
        assert self.serving is not None
        self.asked, self.next_try = False, None
        return [Start(self.serving.epoch + 1)]

    def _starting_exited(self, child: Child, accepting: bool, now: float) -> list[Action]:
        self.starting, self._start_by = None, None
        if self.stopping:
            return []
        self.tries_failed += 1
        if accepting:
            self.asked = False
            self.next_try = now + self._hot_backoff.exited(now - child.since)
            return [Mend()]
        self.leaving, self.serving, self.ready = self.serving, None, False
        if self.leaving is not None:
            self._leave_by = now + self.drain
        self.next_try = now + self._backoff.exited(now - child.since)
        return []

    def _serving_exited(self, child: Child, now: float) -> list[Action]:
        replaced = self.asked and not self.ready
        self.serving, self.ready = None, False
        if self.stopping:
            return []
        self.asked = False
        if replaced:
            self._backoff.forget()
        self.next_try = now if replaced else now + self._backoff.exited(now - child.since)
        if self.starting is None:
            return []
        orphan, self.leaving, self.starting = self.starting, self.starting, None
        self._start_by = None
        self.tries_failed += 1
        return [Kill(orphan.pid)]
