"""Whether somebody still writes a file: what is half written may read as a policy that says less, or as none."""

from __future__ import annotations

import errno
import fcntl
import signal


def keep_writers_away(fd: int) -> bool:
    """Until the descriptor is closed whoever is about to write the file waits, so be quick. False when somebody has it
    open for that already.

    A lease (https://man7.org/linux/man-pages/man2/fcntl.2.html, F_SETLEASE). Where there can be none (file systems that
    have none, others' files without CAP_LEASE) the file is taken for whole.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # who waits is told by a signal, and SIGIO would end the process
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True
