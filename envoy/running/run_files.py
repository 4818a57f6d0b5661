"""The files in the run dir through which the agent and the supervisor know each other.

    envoy.lock         held by the supervisor as long as it lives: whoever holds it *is* the supervisor
    envoy-launch.json  what to run (`Launch`), written by the agent before it starts a supervisor
    envoy.json         what is going on (`SupervisorState`), written by the supervisor
    envoy.log          Envoy's own log, and before it envoy.log.1
    bootstrap.pb.*.pb  what an Envoy starts with, named by its content
    admin.sock         its admin interface
    xds-5.sock         the agent's, where it asks for its configuration
    envoy.base-id      of its shared memory; hot_* are the sockets of hot restarts

Imported by the supervisor, which should stay small: nothing heavier than json here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOCK = "envoy.lock"
LAUNCH = "envoy-launch.json"
STATE = "envoy.json"
LOG = "envoy.log"
BOOTSTRAP = "bootstrap.pb"
ADMIN_SOCKET = "admin.sock"
# An Envoy asks for filters by the names in its bootstrap, and its connections carry what the filters look up. Where one
# of these becomes another, this becomes another too: an Envoy that is being replaced then goes on with what it has. It
# is neither told that its filters are gone nor given some that know none of its connections, nor waited for.
XDS_SOCKET = "xds-5.sock"
FORMER_XDS_SOCKETS = ("xds.sock", "ads.sock", "xds-3.sock", "xds-4.sock")

# The phases of `SupervisorState`.
RUNNING = "running"  # Envoy has been started (whether it is ready, its admin interface says)
WAITING = "waiting"  # Envoy went away; the next try is at `next_try`
STOPPING = "stopping"  # Envoy was asked to end
STOPPED = "stopped"

_BLOCK = 4096  # bytes
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE
_libc = ctypes.CDLL(None)
HANG = 30.0  # seconds

# struct flock of fcntl(2) on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid and the compiler's padding.
_FLOCK = "hhxxxxqqixxxx"


class Launch(NamedTuple):
    """What a supervisor runs. `digest` tells two launches apart, including the contents of the files they name."""

    command: tuple[str, ...]
    version: str
    digest: str
    environment: tuple[tuple[str, str], ...] = ()  # besides the supervisor's own
    grace: float = 5.0  # seconds from SIGTERM to SIGKILL
    first_delay: float = 0.05  # of the back-off, as the next three
    delay_factor: float = 2.0
    longest_delay: float = 30.0
    healthy_after: float = 10.0
    log_limit: int = 4 * 1024 * 1024  # bytes of envoy.log before it becomes envoy.log.1
    drain: float = 0.0  # seconds that a replaced Envoy has for what it still serves; 0: no hot restarts
    patience: float = 60.0  # seconds that its successor has to take over
    control_group: str = ""  # that the supervisor moves to before it starts Envoy; empty: it stays where it is
    paths_of: int = 0  # the process in whose file system the paths are; 0: the supervisor's own
    hang: float = HANG  # seconds for which a thread of an Envoy may do nothing before that is ended; 0: any number


_LATER = ("control_group", "paths_of", "hang")


class SupervisorState(NamedTuple):
    """Written at every change. Times are seconds of CLOCK_MONOTONIC, which all processes of the machine share.

    `envoy_pid` is 0 while none runs; `envoy_ticks` is that process's start time (field 22 of /proc/PID/stat), so that
    a stranger who got the pid later is not mistaken for it.
    """

    phase: str
    supervisor_pid: int
    envoy_pid: int
    envoy_ticks: int
    since: float  # when the phase began
    restarts: int
    last_exit: str  # in words, empty before the first
    next_try: float | None
    version: str
    digest: str
    command: tuple[str, ...]
    hot: bool = False  # it can replace Envoy by a hot restart
    epoch: int = 0  # hot restarts since the last cold start
    wanted_digest: str = ""  # of the launch that was last asked for
    hot_failure: str = ""  # why the last hot restart failed, empty when it did not
    starting: tuple[int, int] | None = None  # pid and ticks of the successor that has not taken over yet
    leaving: tuple[int, int] | None = None  # of the one that was replaced and still serves what it has
    hang: float | None = None  # as in Launch, or told later by SIGUSR1; None: an earlier version, which never looks
    hangs: int = 0  # how many Envoys it has ended for that
    silent_since: float | None = None  # of the one that serves, when that is worth telling; how long is not all in it
    silent_thread: str = ""

    @property
    def processes(self) -> list[tuple[int, int]]:
        """pid and ticks of every Envoy."""
        known = ((self.envoy_pid, self.envoy_ticks), self.starting, self.leaving)
        return [each for each in known if each is not None and each[0]]


def write_launch(directory: Path, launch: Launch) -> None:
    """Leave `launch` for the supervisor of this run dir. One of an earlier version knows only what it knew."""
    later = {name for name in _LATER if getattr(launch, name) == Launch._field_defaults[name]}
    record = {name: value for name, value in launch._asdict().items() if name not in later}
    write_atomically(directory / LAUNCH, json.dumps(record).encode())


def read_launch(directory: Path) -> Launch:
    """The launch to run. Raises OSError when there is none and ValueError when it is damaged."""
    with (directory / LAUNCH).open("rb") as file:
        record = json.load(file)
    try:
        environment = tuple((name, value) for name, value in record["environment"])
        record = {name: value for name, value in record.items() if name in Launch._fields}  # a later version's
        return Launch(**{**record, "command": tuple(record["command"]), "environment": environment})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{LAUNCH} is damaged ({error})") from error


def write_state(directory: Path, state: SupervisorState) -> None:
    """Replace the state file, never leaving half a one. From the second time on that takes no room on the disk: the
    file and a spare one of whole blocks change places. Raises OSError."""
    data = json.dumps(state._asdict()).encode()
    data += b" " * (-len(data) % _BLOCK)
    spare, path = directory / f"{STATE}.spare", directory / STATE
    _write_over(spare, data)
    if _libc.renameat2(_HERE, os.fsencode(spare), _HERE, os.fsencode(path), _EXCHANGE) != 0:
        spare.replace(path)  # the first one, or a file system that cannot
        with suppress(OSError):
            _write_over(spare, data)


def _write_over(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.truncate()


def read_state(directory: Path) -> SupervisorState | None:
    """The last state that was written; None when there is none that can be read. Raises OSError when there is no
    descriptor left to read it by."""
    try:
        with (directory / STATE).open("rb") as file:
            record = json.load(file)
        record = {name: value for name, value in record.items() if name in SupervisorState._fields}
        pairs = {name: tuple(record[name]) for name in ("starting", "leaving") if record.get(name)}
        return SupervisorState(**{**record, **pairs, "command": tuple(record["command"])})
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that only root may read, and put it into place with one rename. One that says so already is left
    alone: there may be no room. Raises OSError."""
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def take_lock(directory: Path) -> bool:
    """Become the supervisor of `directory`, until this process ends. False when another process is it."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # A record lock: it names its holder, and the kernel drops it with the process, however that ends.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    return True  # the descriptor stays open on purpose


def lock_holder(directory: Path) -> int | None:
    """The pid of the supervisor of `directory`, None when there is none. Asks the kernel, so it is never stale.
    Raises OSError when it cannot be asked."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(pid)


def start_ticks(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may hold blanks and brackets itself.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
