"""The process that keeps Envoy running: `python -m lockgate.envoy.running.supervisor [--detach] RUN_DIR`.

Envoy dies with its parent, and the agent may be upgraded, restarted or killed at any time; so Envoy's parent is this
small process, which does nothing else. It runs what RUN_DIR/envoy-launch.json says, starts Envoy again with a back-off
whenever it goes away, and tells in RUN_DIR/envoy.json what it does. SIGHUP: read that file again and replace Envoy by a
hot restart (see `succession`, which decides, and `hot_restart`). SIGUSR1: read again how long an Envoy may be silent
(see `hang_watch`), after which it is ended and started anew. SIGTERM ends all.

Exit status: 0 after SIGTERM, 1 when it cannot work in RUN_DIR or another supervisor already does, 2 for a wrong call.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from . import control_group, hot_restart
from .backoff import Backoff
from .child import EnvoyChild
from .file_system import FileSystem
from .hang_watch import HangWatch
from .log_file import LogFile
from .run_files import (
    ADMIN_SOCKET,
    LOG,
    RUNNING,
    STOPPED,
    STOPPING,
    WAITING,
    Launch,
    SupervisorState,
    lock_holder,
    read_launch,
    read_state,
    start_ticks,
    take_lock,
    write_state,
)
from .succession import Action, Kill, Mend, Start, Succession, Terminate

_TELL_SECONDS = 1.0  # between two tries to write the state
_LOOK_SECONDS = 0.05  # how often an Envoy is looked at until it accepts connections


class Supervisor:
    """Runs `launch` in `directory` until SIGTERM. The caller holds the directory's lock."""

    def __init__(self, directory: Path, launch: Launch, log: LogFile) -> None:
        self._directory = directory
        self._wanted = launch
        self._files = {launch.digest: FileSystem(launch.paths_of)}
        self._log = log
        self._base_id = hot_restart.claim(directory) if launch.drain else None
        self._succession = Succession(
            Backoff(launch.first_delay, launch.delay_factor, launch.longest_delay, launch.healthy_after),
            Backoff(launch.first_delay * 20, launch.delay_factor, launch.longest_delay, launch.healthy_after),
            launch.drain,
            launch.patience,
            launch.grace,
        )
        self._watch = HangWatch(directory / ADMIN_SOCKET, launch.hang)
        self._hung: dict[int, str] = {}  # those that were killed for that, and how they hung
        self._hangs = 0
        self._silent: tuple[float, str] | None = None  # since when the one that serves is, and which thread
        self._poll = select.poll()
        self._wake, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._poll.register(self._wake, select.POLLIN)
        self._received: set[int] = set()
        self._children: dict[int, EnvoyChild] = {}
        self._phase = ""
        self._since = time.monotonic()
        self._served: Launch | None = None  # what the last one that accepted connections was started from
        self._restarts = -1
        self._last_exit = ""
        self._hot_failure = ""
        self._replaced = False  # something else was asked for before the one that runs was ready
        self._told: SupervisorState | None = None  # None: there was no room for it

    def _on_signal(self, number: int, *_: object) -> None:
        self._received.add(number)

    def start(self) -> None:
        """Start Envoy for the first time."""
        before = read_state(self._directory)
        if before is not None:
            for pid, ticks in before.processes:
                end_orphan(pid, ticks)
        self._do(self._succession.begin())

    def run(self) -> None:
        """Keep Envoy running; returns when SIGTERM came and every Envoy has ended."""
        succession = self._succession
        while not succession.over:
            for descriptor, _ in self._poll.poll(self._milliseconds_to_next()):
                if descriptor == self._wake:
                    os.read(self._wake, 512)
                    self._obey()
                else:
                    self._attend(descriptor)
            self._look()
            self._do(succession.due(time.monotonic()))  # tells
            self._look_for_hangs(time.monotonic())
        if self._base_id is not None:
            hot_restart.forget(self._directory, self._base_id)
        self._tell()

    def _obey(self) -> None:
        received, self._received = self._received, set()
        if signal.SIGTERM in received:
            self._do(self._succession.stop(time.monotonic()))
            return
        if signal.SIGUSR1 in received:
            with suppress(OSError, ValueError):
                self._watch.limit = read_launch(self._directory).hang
            self._tell()
        if signal.SIGHUP in received:
            before = self._wanted.digest
            try:
                self._want(read_launch(self._directory))
            except (OSError, ValueError) as error:
                self._log.write(f"lockgate: no restart of Envoy: {error}\n".encode())
                return
            self._succession.drain, self._succession.patience = self._wanted.drain, self._wanted.patience
            if self._wanted.digest != before:
                self._succession.tries_failed = 0
            self._look()
            self._replaced = not self._succession.ready
            self._do(self._succession.restart(time.monotonic()))

    def _want(self, launch: Launch) -> None:
        """From now on. Raises OSError when the agent that asks is gone."""
        used = [launch, *(child.launch for child in self._children.values()), *([self._served] if self._served else [])]
        kept = {each.digest: self._files[each.digest] for each in used if each.digest in self._files}
        self._files = {launch.digest: kept.get(launch.digest) or FileSystem(launch.paths_of), **kept}
        self._wanted = launch

    def _attend(self, descriptor: int) -> None:
        for child in list(self._children.values()):
            if descriptor == child.pidfd:
                self._ended(child)
            elif descriptor == child.output and not child.read() and child.at_end:
                self._poll.unregister(descriptor)

    def _look(self) -> None:
        """Who accepts connections, as long as that may change."""
        succession = self._succession
        serving, starting = succession.serving, succession.starting
        if serving is not None and not succession.ready and hot_restart.accepts(serving.pid):
            self._served = self._children[serving.pid].launch
            succession.accepts()
            if self._served is self._wanted:
                self._hot_failure = ""
            else:
                succession.retry(time.monotonic())
            self._tell()
        if serving is not None and starting is not None and hot_restart.accepts(starting.pid):
            if hot_restart.accepts(serving.pid):
                return
            self._served = self._children[starting.pid].launch
            self._hot_failure = ""
            self._do(succession.took_over(time.monotonic()))

    @property
    def _watched(self) -> tuple[int, ...]:
        """One that is starting waits for the one that serves; how long it may, `succession` knows."""
        children = (self._succession.serving, self._succession.leaving)
        return tuple(child.pid for child in children if child is not None)

    def _look_for_hangs(self, now: float) -> None:
        succession, serving = self._succession, self._succession.serving
        answering = serving.pid if serving is not None and succession.starting is None else 0
        for pid, how in self._watch.look(now, self._watched, answering):
            self._hangs += 1
            self._hung[pid] = how
            self._log.write(f"lockgate: Envoy (pid {pid}) {how}\n".encode())
            self._do(succession.hangs(pid))
        seconds, thread = self._watch.silence(serving.pid) if serving is not None else (0.0, "")
        if bool(seconds) != (self._silent is not None):
            self._silent = (now - seconds, thread) if seconds else None
            self._tell()

    def _milliseconds_to_next(self) -> int | None:
        due = self._succession.next_due
        look = self._watch.due(self._watched)
        if look is not None:
            due = look if due is None else min(due, look)
        unready = self._succession.serving is not None and not self._succession.ready
        if unready or self._succession.starting is not None:
            look = time.monotonic() + _LOOK_SECONDS
            due = look if due is None else min(due, look)
        if self._told is None:
            again = time.monotonic() + _TELL_SECONDS
            due = again if due is None else min(due, again)
        return None if due is None else max(0, int((due - time.monotonic()) * 1000) + 1)

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._start_envoy(action)
                case Terminate(pid):
                    self._children[pid].signal(signal.SIGTERM)
                case Kill(pid):
                    self._children[pid].signal(signal.SIGKILL)
                case Mend():
                    hot_restart.mend(self._directory)
        self._tell()

    def _start_envoy(self, start: Start) -> None:
        launch = self._wanted
        if not start.hot:
            self._restarts += 1
            if self._succession.tries_failed and self._served is not None:
                launch = self._served  # what is wanted has failed beside it, and this has not
        arguments = ["--disable-hot-restart"]
        if self._base_id is not None:
            arguments = hot_restart.arguments(self._directory, self._base_id, start.epoch, launch.drain)
        try:
            child = EnvoyChild(launch, arguments, self._log.write, self._files[launch.digest])
        except OSError as error:
            how = f"could not be started: {error.strerror}"
            if start.hot:
                self._hot_failure = how
            else:
                self._last_exit = how
            self._log.write(f"lockgate: {'its successor' if start.hot else 'Envoy'} {how}\n".encode())
            self._succession.not_started(start, time.monotonic())
            return
        self._children[child.pid] = child
        self._poll.register(child.output, select.POLLIN)
        self._poll.register(child.pidfd, select.POLLIN)
        self._succession.started(child.pid, start, time.monotonic())

    def _ended(self, child: EnvoyChild) -> None:
        succession = self._succession
        del self._children[child.pid]
        self._poll.unregister(child.pidfd)
        if not child.at_end:
            self._poll.unregister(child.output)
        how = child.ended()
        how = self._hung.pop(child.pid, how)
        was_starting = succession.starting is not None and succession.starting.pid == child.pid
        was_serving = succession.serving is not None and succession.serving.pid == child.pid
        serving = succession.serving
        accepting = serving is not None and serving.pid != child.pid and hot_restart.accepts(serving.pid)
        actions = succession.exited(child.pid, accepting, time.monotonic())
        if was_starting:
            self._hot_failure = how
        if was_serving and self._replaced:  # it was never of any use: it is another one that is counted now
            self._replaced, self._restarts, self._last_exit = False, -1, ""
        elif was_serving or (was_starting and not accepting):
            self._last_exit = how
        if succession.next_try is not None and (was_serving or was_starting):
            delay = succession.next_try - time.monotonic()
            what = "its successor" if was_starting else "Envoy"
            self._log.write(f"lockgate: {what} {how}; starting it again in {delay:.2g} s\n".encode())
        self._do(actions)

    def _tell(self) -> None:
        succession = self._succession
        phase = WAITING if succession.serving is None else RUNNING
        if succession.stopping:
            phase = STOPPED if succession.over else STOPPING
        serving = succession.serving
        if phase != self._phase or serving is None:
            self._phase, self._since = phase, time.monotonic()
        launch = self._wanted if serving is None else self._children[serving.pid].launch
        state = SupervisorState(
            phase=phase,
            supervisor_pid=os.getpid(),
            envoy_pid=serving.pid if serving else 0,
            envoy_ticks=self._children[serving.pid].ticks if serving else 0,
            since=serving.since if serving and phase == RUNNING else self._since,
            restarts=max(0, self._restarts),
            last_exit=self._last_exit,
            next_try=succession.next_try if serving is None else None,
            version=launch.version,
            digest=launch.digest,
            command=launch.command,
            hot=self._base_id is not None,
            epoch=serving.epoch if serving else 0,
            wanted_digest=self._wanted.digest,
            hot_failure=self._hot_failure,
            starting=self._process(succession.starting.pid) if succession.starting else None,
            leaving=self._process(succession.leaving.pid) if succession.leaving else None,
            hang=self._watch.limit,
            hangs=self._hangs,
            silent_since=self._silent[0] if self._silent and serving else None,
            silent_thread=self._silent[1] if self._silent and serving else "",
        )
        if state == self._told:
            return
        self._told = None  # if the disk is full, or the run dir was taken away: Envoy goes on
        with suppress(OSError):
            write_state(self._directory, state)
            self._told = state

    def _process(self, pid: int) -> tuple[int, int]:
        return pid, self._children[pid].ticks


def end_orphan(pid: int, ticks: int) -> None:
    """End the Envoy of a supervisor that was killed, if it is still there: two of them would share the listeners."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if start_ticks(pid) == ticks:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], 10)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _detach() -> int:
    """Leave the caller's session and go on as a child of init. Returns, in the new process only, a descriptor: what is
    written to it goes to the caller's stderr as the reason of a failed start; closing it without a word is success."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            reason = file.read()
        sys.stderr.write(reason.decode(errors="replace"))
        sys.stderr.flush()
        os._exit(1 if reason else 0)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    return writer


def main(arguments: list[str]) -> int:
    """The command line; see the module's docstring."""
    detached = arguments[:1] == ["--detach"]
    if len(arguments) != 1 + detached:
        print("usage: python -m lockgate.envoy.running.supervisor [--detach] RUN_DIR", file=sys.stderr)
        return 2
    directory = Path(arguments[-1]).absolute()
    report = _detach() if detached else os.dup(2)
    try:
        if not take_lock(directory):
            os.write(report, f"{directory} has a supervisor already (pid {lock_holder(directory)})\n".encode())
            return 1
        launch = read_launch(directory)
        if launch.control_group:
            control_group.join(launch.control_group)
        log = LogFile(directory / LOG, launch.log_limit)
        os.dup2(log.descriptor, 2, inheritable=False)
        supervisor = Supervisor(directory, launch, log)
        supervisor.start()
    except (OSError, ValueError) as error:
        os.write(report, f"cannot supervise Envoy in {directory}: {error}\n".encode())
        return 1
    os.close(report)
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
