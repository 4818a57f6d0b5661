"""One Envoy as a child process: how it is started, what it says, and how it ended."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from .file_system import FileSystem
from .last_words import LastWords, exit_in_words
from .run_files import Launch, start_ticks

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAP_NET_BIND_SERVICE = 10
_CAP_NET_ADMIN = 12  # IP_TRANSPARENT, SO_MARK
_KEPT_CAPABILITIES = (_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN)

_libc = ctypes.CDLL(None, use_errno=True)


class EnvoyChild:
    """A running Envoy. `pidfd` is readable when it has ended, `output` (until `ended`) when it said something.

    Raises OSError when the machine has no room for it.
    """

    def __init__(
        self, launch: Launch, arguments: Sequence[str], hear: Callable[[bytes], None], files: FileSystem
    ) -> None:
        self.launch = launch
        self._hear = hear
        self._words = LastWords()
        self.at_end = False  # it has closed its output
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = 0
        try:
            pid = os.fork()
            if pid == 0:
                _become_envoy(launch, arguments, writer, files)
            os.set_blocking(reader, False)
            self.output = reader
            self.pid = pid
            self.ticks = start_ticks(pid) or 0
            self.pidfd = os.pidfd_open(pid)
        except OSError:
            os.close(reader)
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        finally:
            os.close(writer)

    def read(self) -> bool:
        """Take what it wrote; False when there is no more for now, or ever."""
        try:
            data = os.read(self.output, 65536)
        except BlockingIOError:
            return False
        if not data:
            self.at_end = True
            return False
        self._hear(data)
        self._words.hear(data)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Nothing happens when it has just ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def ended(self) -> str:
        """After `pidfd` became readable: how it ended, in words."""
        while not self.at_end and self.read():
            pass
        os.close(self.output)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        return exit_in_words(status, str(self._words))


def _become_envoy(launch: Launch, arguments: Sequence[str], output: int, files: FileSystem) -> None:
    """In the child: never returns."""
    try:
        signal.set_wakeup_fd(-1)
        files.enter()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # Envoy asks for this itself, but only once it has come up.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # What Envoy may ever do: bind below port 1024, transparent sockets, marks. root keeps the rest from it.
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())
        for capability in range(last + 1):
            if capability not in _KEPT_CAPABILITIES:
                _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        environment = {**os.environ, **dict(launch.environment)}
        os.execve(launch.command[0], [*launch.command, *arguments], environment)
    except OSError as error:
        os.write(output, f"{launch.command[0]} did not start: {error.strerror}\n".encode())
    finally:
        os._exit(127)
