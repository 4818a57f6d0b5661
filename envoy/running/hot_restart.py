"""What two Envoys of a hot restart share: a base id, shared memory and sockets; and who of them accepts connections.

By default these names are the same for every Envoy of a network namespace (its abstract sockets) and of the machine
(its shared memory), and the first thing that an Envoy does is to take away what it finds there. So the sockets are in
the run dir, and the base id is claimed: the file of its shared memory is made exclusively, and stays until `forget`.
https://www.envoyproxy.io/docs/envoy/latest/operations/cli
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BASE_ID = "envoy.base-id"  # in the run dir
SOCKET = "hot"  # the beginning of the sockets' names there

_SHARED_MEMORY = Path("/dev/shm")
_LARGEST = 2**27  # Envoy multiplies it by ten and adds to it
_TRIES = 100
# SharedMemory of Envoy 1.40 (source/server/hot_restart_impl.h): size, version, two mutexes of 40 bytes, flags.
_HEAD = struct.Struct("=QQ")
_SIZE, _VERSION, _FLAGS_AT = 104, 11, 96
_INITIALIZING = 1
_LISTEN = "0A"  # of /proc/net/tcp


def claim(directory: Path) -> int | None:
    """The base id of the Envoys of this run dir, the same until `forget`. None where there is no shared memory."""
    record = directory / BASE_ID
    with suppress(OSError, ValueError):
        return int(record.read_text())
    for _ in range(_TRIES):
        base_id = random.randrange(1, _LARGEST)
        try:
            os.close(os.open(_memory(base_id), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            continue
        except OSError:
            return None
        record.write_text(f"{base_id}\n")
        return base_id
    return None


def forget(directory: Path, base_id: int | None = None) -> None:
    """Gives the base id back, with the shared memory and the sockets. No Envoy of this run dir may run.

    `base_id` is for who knows it: the run dir may be lost.
    """
    with suppress(OSError, ValueError):
        _memory(base_id or int((directory / BASE_ID).read_text())).unlink(missing_ok=True)
    (directory / BASE_ID).unlink(missing_ok=True)
    for path in directory.glob(f"{SOCKET}_*"):
        path.unlink(missing_ok=True)


def arguments(directory: Path, base_id: int, epoch: int, drain: float) -> list[str]:
    """What Envoy's command line needs. `drain`: seconds that the one before has from the moment it is replaced; half of
    them is for telling clients, request by request, to come anew."""
    whole = max(2, round(drain))
    return [
        *("--base-id", str(base_id), "--socket-path", str(directory / SOCKET), "--restart-epoch", str(epoch)),
        *("--drain-time-s", str(whole // 2), "--parent-shutdown-time-s", str(whole)),
    ]


def mend(directory: Path) -> None:
    """Takes back the mark that a successor is being initialised, which a dead one leaves: Envoy would refuse the next.

    Memory that does not look like that of the pinned Envoy is left alone.
    """
    try:
        path = _memory(int((directory / BASE_ID).read_text()))
        with path.open("r+b") as file:
            head = file.read(_SIZE + 1)
            if len(head) != _SIZE or _HEAD.unpack_from(head) != (_SIZE, _VERSION):
                return
            (flags,) = struct.unpack_from("=Q", head, _FLAGS_AT)
            file.seek(_FLAGS_AT)
            file.write(struct.pack("=Q", flags & ~_INITIALIZING))
    except (OSError, ValueError):
        return


def accepts(pid: int) -> bool:
    """True when the process has a TCP socket that listens. Asks the kernel: no log line or answer can be wrong here."""
    try:
        listening = set(_listening(pid))
        if not listening:
            return False
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed since
                if str(entry.readlink()) in listening:
                    return True
    except OSError:
        return False
    return False


def _listening(pid: int) -> Iterator[str]:
    """All listening TCP sockets of the process' network namespace, as links under /proc/PID/fd show them."""
    for table in ("tcp", "tcp6"):
        with Path(f"/proc/{pid}/net/{table}").open() as file:
            next(file, "")
            for line in file:
                fields = line.split()
                if fields[3] == _LISTEN:
                    yield f"socket:[{fields[9]}]"


def _memory(base_id: int) -> Path:
    return _SHARED_MEMORY / f"envoy_shared_memory_{base_id * 10}"
