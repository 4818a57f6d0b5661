"""The process that keeps Envoy running: `python -m lockgate.envoy.supervisor [--detach] RUN_DIR`.

Envoy dies with its parent, and the agent may be upgraded, restarted or killed at any time; so Envoy's parent is this
small process, which does nothing else. It runs what RUN_DIR/envoy-launch.json says, starts Envoy again with a back-off
whenever it goes away, and tells in RUN_DIR/envoy.json what it does. SIGTERM ends both.

Exit status: 0 after SIGTERM, 1 when it cannot work in RUN_DIR or another supervisor already does, 2 for a wrong call.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import select
import signal
import sys
import time
from pathlib import Path

from .backoff import Backoff
from .run_files import (
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

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAP_NET_BIND_SERVICE = 10
_CAP_NET_ADMIN = 12  # IP_TRANSPARENT, SO_MARK
_KEPT_CAPABILITIES = (_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN)

# "[2026-01-01 00:00:00.000][12][critical][main] [source/server/server.cc:414] text"
_LOG_LINE = re.compile(rb"\[[^\]]+\]\[\d+\]\[(?P<level>\w+)\]\[[\w.]+\] (?:\[[^\]]+\] )?(?P<text>.*)")
_TOLD = 300  # bytes of Envoy's last words that go into the state


class LogFile:
    """Appends to `path`; at `limit` bytes the file becomes `path`.1 and a new one begins."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._open()

    def _open(self) -> None:
        self.descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self.descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append `data`. A full disk loses the lines, but not the supervisor."""
        if self._size and self._size + len(data) > self._limit:
            os.close(self.descriptor)
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._open()
        try:
            self._size += os.write(self.descriptor, data)
        except OSError:
            return


class LastWords:
    """Listens to Envoy's log for the line that says why it ends: the last critical one, else the last error."""

    _RANK = (b"error", b"critical")

    def __init__(self) -> None:
        self._rest = b""
        self._rank = -1
        self._text = b""

    def hear(self, data: bytes) -> None:
        """Take the next piece of the log, in whatever sizes it comes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-65536:]
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        found = _LOG_LINE.match(line)
        if found is None:
            # What is not in the log's form is a message of the dynamic linker, of a sanitizer, or a usage error.
            if self._rank < 0 and line.strip():
                self._text = line.strip()
            return
        if found["level"] in self._RANK and self._RANK.index(found["level"]) >= self._rank:
            self._rank = self._RANK.index(found["level"])
            self._text = found["text"].strip()

    def __str__(self) -> str:
        return self._text[:_TOLD].decode(errors="replace")


def exit_in_words(status: int, last_words: str) -> str:
    """What waitpid's `status` means, with what Envoy said last."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        how = f"exited with status {code}"
    else:
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
    return f"{how}: {last_words}" if last_words else how


class Supervisor:
    """Runs `launch` in `directory` until SIGTERM. The caller holds the directory's lock."""

    def __init__(self, directory: Path, launch: Launch, log: LogFile) -> None:
        self._directory = directory
        self._launch = launch
        self._log = log
        self._backoff = Backoff(launch.first_delay, launch.delay_factor, launch.longest_delay, launch.healthy_after)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._poll = select.poll()
        self._wake, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._poll.register(self._wake, select.POLLIN)
        self._stopping = False
        self._phase = STOPPED
        self._since = time.monotonic()
        self._pid = 0
        self._ticks = 0
        self._pidfd = -1
        self._output = -1
        self._words = LastWords()
        self._restarts = 0
        self._last_exit = ""
        self._next_try: float | None = None
        self._kill_at: float | None = None

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def start(self) -> None:
        """Start Envoy for the first time."""
        before = read_state(self._directory)
        if before is not None and before.envoy_pid:
            end_orphan(before.envoy_pid, before.envoy_ticks)
        self._start_envoy()

    def run(self) -> None:
        """Keep Envoy running; returns when SIGTERM came and Envoy has ended."""
        while True:
            if self._stopping and self._phase != STOPPING:
                self._stop_envoy()
            if self._stopping and not self._pid:
                break
            for descriptor, _ in self._poll.poll(self._milliseconds_to_next()):
                if descriptor == self._output:
                    self._read_output()
                elif descriptor == self._pidfd:
                    self._envoy_ended()
                elif descriptor == self._wake:
                    os.read(self._wake, 512)
            now = time.monotonic()
            if self._next_try is not None and now >= self._next_try and not self._stopping:
                self._restarts += 1
                self._start_envoy()
            if self._kill_at is not None and now >= self._kill_at:
                self._kill_at = None
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._enter(STOPPED)

    def _milliseconds_to_next(self) -> int | None:
        due = self._next_try if self._kill_at is None else self._kill_at
        return None if due is None else max(0, int((due - time.monotonic()) * 1000) + 1)

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._since = time.monotonic()
        write_state(
            self._directory,
            SupervisorState(
                phase=phase,
                supervisor_pid=os.getpid(),
                envoy_pid=self._pid,
                envoy_ticks=self._ticks,
                since=self._since,
                restarts=self._restarts,
                last_exit=self._last_exit,
                next_try=self._next_try,
                version=self._launch.version,
                digest=self._launch.digest,
                command=self._launch.command,
            ),
        )

    def _start_envoy(self) -> None:
        self._next_try = None
        self._words = LastWords()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._become_envoy(writer)
        os.close(writer)
        os.set_blocking(reader, False)
        self._output = reader
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._ticks = start_ticks(pid) or 0
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._pidfd, select.POLLIN)
        self._enter(RUNNING)

    def _become_envoy(self, output: int) -> None:
        """In the child: never returns."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            # Envoy asks for this itself, but only once it has come up.
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # What Envoy may ever do: bind below port 1024, transparent sockets, marks. root keeps the rest from it.
            last = int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())
            for capability in range(last + 1):
                if capability not in _KEPT_CAPABILITIES:
                    self._libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
            self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            environment = {**os.environ, **dict(self._launch.environment)}
            os.execve(self._launch.command[0], self._launch.command, environment)
        except OSError as error:
            os.write(output, f"{self._launch.command[0]} did not start: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def _read_output(self) -> bool:
        """Take what Envoy wrote; False when there is no more for now."""
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._close_output()
            return False
        self._log.write(data)
        self._words.hear(data)
        return True

    def _close_output(self) -> None:
        self._poll.unregister(self._output)
        os.close(self._output)
        self._output = -1

    def _envoy_ended(self) -> None:
        while self._output >= 0 and self._read_output():
            pass
        if self._output >= 0:
            self._close_output()
        _, status = os.waitpid(self._pid, 0)
        self._poll.unregister(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._pid = 0
        self._ticks = 0
        self._kill_at = None
        self._last_exit = exit_in_words(status, str(self._words))
        if self._stopping:
            return
        delay = self._backoff.exited(time.monotonic() - self._since)
        self._next_try = time.monotonic() + delay
        self._log.write(f"lockgate: Envoy {self._last_exit}; starting it again in {delay:g} s\n".encode())
        self._enter(WAITING)

    def _stop_envoy(self) -> None:
        self._next_try = None
        self._enter(STOPPING)
        if self._pid:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            self._kill_at = time.monotonic() + self._launch.grace


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
        print("usage: python -m lockgate.envoy.supervisor [--detach] RUN_DIR", file=sys.stderr)
        return 2
    directory = Path(arguments[-1]).absolute()
    report = _detach() if detached else os.dup(2)
    try:
        if not take_lock(directory):
            os.write(report, f"{directory} has a supervisor already (pid {lock_holder(directory)})\n".encode())
            return 1
        launch = read_launch(directory)
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
