"""Who serves, who starts, who leaves: by table, and for every order of events."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from lockgate.envoy.running.backoff import Backoff
from lockgate.envoy.running.succession import Action, Kill, Mend, Start, Succession, Terminate

DRAIN, PATIENCE, GRACE = 100.0, 30.0, 5.0


class Play:
    """A succession whose processes have the numbers 1, 2, 3 ... in the order of their starts."""

    def __init__(self, ready: bool = True) -> None:
        self.ready = ready  # whoever is started cold accepts connections at once
        self.machine = Succession(Backoff(1, 2, 30, 10), Backoff(2, 2, 30, 10), DRAIN, PATIENCE, GRACE)
        self.now = 0.0
        self.pids = 0
        self.said: list[Action] = []
        self.do(self.machine.begin())

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            self.said.append(action)
            if isinstance(action, Start):
                self.pids += 1
                self.machine.started(self.pids, action, self.now)
                if self.ready and not action.hot:
                    self.machine.accepts()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.machine.due(self.now))

    def roles(self) -> tuple[int, int, int]:
        children = (self.machine.serving, self.machine.starting, self.machine.leaving)
        serving, starting, leaving = (child.pid if child else 0 for child in children)
        return serving, starting, leaving


def restart(play: Play) -> None:
    play.do(play.machine.restart(play.now))


def took_over(play: Play) -> None:
    play.do(play.machine.took_over(play.now))


def accepts(play: Play) -> None:
    play.machine.accepts()


def hangs(pid: int) -> Callable[[Play], None]:
    return lambda play: play.do(play.machine.hangs(pid))


def stop(play: Play) -> None:
    play.do(play.machine.stop(play.now))


def dies(pid: int, accepting: bool = True) -> Callable[[Play], None]:
    return lambda play: play.do(play.machine.exited(pid, accepting, play.now))


def after(seconds: float) -> Callable[[Play], None]:
    return lambda play: play.wait(seconds)


@pytest.mark.parametrize(
    ("events", "roles", "said"),
    [
        ([], (1, 0, 0), [Start(0)]),
        ([dies(1)], (0, 0, 0), [Start(0)]),
        ([dies(1), after(0.9)], (0, 0, 0), [Start(0)]),
        ([dies(1), after(1)], (2, 0, 0), [Start(0), Start(0)]),
        ([restart], (1, 2, 0), [Start(0), Start(1)]),
        ([restart, took_over], (2, 0, 1), [Start(0), Start(1)]),
        ([restart, took_over, dies(1)], (2, 0, 0), [Start(0), Start(1)]),
        # It is asked to end by its successor; should that fail, by the supervisor.
        ([restart, took_over, after(DRAIN)], (2, 0, 1), [Start(0), Start(1)]),
        ([restart, took_over, after(DRAIN + GRACE)], (2, 0, 1), [Start(0), Start(1), Terminate(1)]),
        (
            [restart, took_over, after(DRAIN + GRACE), after(GRACE)],
            (2, 0, 1),
            [Start(0), Start(1), Terminate(1), Kill(1)],
        ),
        (
            [restart, took_over, after(DRAIN + GRACE), dies(1), after(GRACE)],
            (2, 0, 0),
            [Start(0), Start(1), Terminate(1)],
        ),
        # A successor that dies before it took over changes nothing, and is tried again.
        ([restart, dies(2)], (1, 0, 0), [Start(0), Start(1), Mend()]),
        ([restart, dies(2), after(2)], (1, 3, 0), [Start(0), Start(1), Mend(), Start(1)]),
        ([restart, dies(2), after(2), dies(3), after(3.9)], (1, 0, 0), [Start(0), Start(1), Mend(), Start(1), Mend()]),
        ([restart, dies(2), after(2), took_over], (3, 0, 1), [Start(0), Start(1), Mend(), Start(1)]),
        # One that had just taken over when it died: the other accepts no more.
        ([restart, dies(2, accepting=False)], (0, 0, 1), [Start(0), Start(1)]),
        ([restart, dies(2, accepting=False), after(1)], (3, 0, 1), [Start(0), Start(1), Start(0)]),
        (
            [restart, dies(2, accepting=False), after(1), after(DRAIN)],
            (3, 0, 1),
            [Start(0), Start(1), Start(0), Terminate(1)],
        ),
        # One that neither takes over nor dies.
        ([restart, after(PATIENCE)], (1, 2, 0), [Start(0), Start(1), Kill(2)]),
        ([restart, after(PATIENCE), dies(2)], (1, 0, 0), [Start(0), Start(1), Kill(2), Mend()]),
        # The one that serves dies while its successor is coming, or after it took over.
        ([restart, dies(1)], (0, 0, 2), [Start(0), Start(1), Kill(2)]),
        ([restart, dies(1), dies(2), after(1)], (3, 0, 0), [Start(0), Start(1), Kill(2), Start(0)]),
        ([restart, took_over, dies(2), after(1)], (3, 0, 1), [Start(0), Start(1), Start(0)]),
        # One that hangs is killed, and not replaced by one that would ask it.
        ([hangs(1)], (1, 0, 0), [Start(0), Kill(1)]),
        ([hangs(1), dies(1), after(1)], (2, 0, 0), [Start(0), Kill(1), Start(0)]),
        (
            [restart, hangs(1), dies(1), dies(2), after(1)],
            (3, 0, 0),
            [Start(0), Start(1), *map(Kill, (1, 2)), Start(0)],
        ),
        ([restart, hangs(2)], (1, 2, 0), [Start(0), Start(1)]),
        ([restart, took_over, hangs(1), dies(1)], (2, 0, 0), [Start(0), Start(1), Kill(1)]),
        ([stop, hangs(1)], (1, 0, 0), [Start(0), Terminate(1)]),
        # Two restarts asked for at once are done one after the other.
        ([restart, restart], (1, 2, 0), [Start(0), Start(1)]),
        ([restart, took_over, restart], (2, 0, 1), [Start(0), Start(1)]),
        ([restart, took_over, restart, dies(1)], (2, 3, 0), [Start(0), Start(1), Start(2)]),
        # Nobody serves: what is wanted is started at once.
        ([dies(1), restart], (2, 0, 0), [Start(0), Start(0)]),
        ([stop], (1, 0, 0), [Start(0), Terminate(1)]),
        ([stop, restart], (1, 0, 0), [Start(0), Terminate(1)]),
        ([stop, after(GRACE)], (1, 0, 0), [Start(0), Terminate(1), Kill(1)]),
        (
            [restart, took_over, stop, after(GRACE)],
            (2, 0, 1),
            [Start(0), Start(1), *map(Terminate, (2, 1)), *map(Kill, (2, 1))],
        ),
        ([restart, stop, dies(2), dies(1)], (0, 0, 0), [Start(0), Start(1), Terminate(1), Terminate(2)]),
        ([dies(1), stop, after(60)], (0, 0, 0), [Start(0)]),
    ],
)
def test_table(events: list[Callable[[Play], None]], roles: tuple[int, int, int], said: list[Action]) -> None:
    play = Play()
    for event in events:
        event(play)
    assert play.roles() == roles
    assert play.said == said


@pytest.mark.parametrize(
    ("events", "roles", "said"),
    [
        ([restart], (1, 0, 0), [Start(0), Kill(1)]),
        ([restart, dies(1)], (0, 0, 0), [Start(0), Kill(1)]),
        ([restart, dies(1), after(0)], (2, 0, 0), [Start(0), Kill(1), Start(0)]),
        ([restart, dies(1), after(0), accepts, restart], (2, 3, 0), [Start(0), Kill(1), Start(0), Start(1)]),
        (
            [accepts, restart, dies(2, accepting=False), after(1), restart, dies(3), after(0)],
            (4, 0, 1),
            [Start(0), Start(1), Start(0), Kill(3), Start(0)],
        ),
        (
            [accepts, restart, dies(2, accepting=False), after(1), accepts, restart, dies(1)],
            (3, 4, 0),
            [Start(0), Start(1), Start(0), Start(1)],
        ),
    ],
)
def test_one_that_is_not_ready_is_not_replaced(
    events: list[Callable[[Play], None]], roles: tuple[int, int, int], said: list[Action]
) -> None:
    play = Play(ready=False)
    for event in events:
        event(play)
    assert play.roles() == roles
    assert play.said == said


def test_a_crash_loop_is_slowed_down_and_so_is_a_failing_restart() -> None:
    play = Play()
    delays = []
    for pid in range(1, 8):
        play.do(play.machine.exited(pid, False, play.now))
        assert play.machine.next_try is not None
        delays.append(play.machine.next_try - play.now)
        play.wait(delays[-1])
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    restart(play)
    for wanted in (2, 4, 8, 16, 30, 30):
        assert play.machine.starting is not None
        play.do(play.machine.exited(play.machine.starting.pid, True, play.now))
        assert play.machine.next_try == play.now + wanted
        play.wait(wanted)
    took_over(play)
    assert play.machine.tries_failed == 0


def test_what_was_wanted_is_tried_again_beside_what_served_before() -> None:
    play = Play()
    play.machine.retry(play.now)
    play.wait(1.9)
    assert play.roles() == (1, 0, 0)
    play.wait(0.1)
    assert play.roles() == (1, 2, 0)
    took_over(play)
    play.machine.retry(play.now)
    play.wait(2)
    assert play.roles() == (2, 0, 1), "not before the other is gone"
    dies(1)(play)
    assert play.roles() == (2, 3, 0)


EVENTS = st.one_of(
    st.sampled_from(["restart", "took_over", "accepts", "retry"]),
    st.tuples(st.sampled_from(["serving", "starting", "leaving"]), st.booleans()),
    st.floats(0, 200),
)


@effort(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.booleans(), st.booleans())
def test_whatever_happens_somebody_serves_or_has_a_time(events: list[object], stopped: bool, ready: bool) -> None:
    play = Play(ready)
    machine = play.machine
    for event in events:
        match event:
            case "restart":
                restart(play)
            case "took_over":
                took_over(play)
            case "retry":
                if machine.ready:
                    machine.retry(play.now)
            case "accepts":
                if machine.serving is not None:
                    accepts(play)
            case (str(role), bool(accepting)):
                child = getattr(machine, role)
                if child is not None:
                    play.do(machine.exited(child.pid, accepting, play.now))
            case float(seconds):
                play.wait(seconds)
        assert machine.serving is not None or machine.next_try is not None
        assert machine.starting is None or (machine.serving is not None and machine.leaving is None)
        assert (
            machine.leaving is None
            or machine.leaving.pid == 0
            or machine.next_due is not None
            or any(isinstance(action, Kill) and action.pid == machine.leaving.pid for action in play.said)
        ), "nobody leaves for ever"
        if machine.starting is not None and machine.serving is not None:
            assert machine.starting.epoch == machine.serving.epoch + 1
        pids = [child.pid for child in machine.children]
        assert len(set(pids)) == len(pids) <= 2
    if stopped:
        stop(play)
        started = play.pids
        play.wait(GRACE)
        assert {action.pid for action in play.said if isinstance(action, Kill)} >= {
            each.pid for each in machine.children
        }
        for child in list(machine.children):
            play.do(machine.exited(child.pid, True, play.now))
        play.wait(1000)
        assert machine.over and play.pids == started


def test_a_start_for_which_the_machine_has_no_room_is_tried_again() -> None:
    play = Play()
    dies(1)(play)
    play.now += 1
    (start,) = play.machine.due(play.now)
    assert start == Start(0)
    play.machine.not_started(start, play.now)
    play.wait(1.9)
    assert play.roles() == (0, 0, 0), "the back-off goes on"
    play.wait(0.2)
    assert play.roles() == (2, 0, 0)
    (start,) = play.machine.restart(play.now)
    assert start == Start(1)
    play.machine.not_started(start, play.now)
    assert (play.roles(), play.machine.tries_failed) == ((2, 0, 0), 1)
    play.wait(2)
    assert play.roles() == (2, 3, 0)
