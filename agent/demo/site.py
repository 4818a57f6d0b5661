"""Where a demonstration lives, and how all of it goes away again: this one's, a kept one's, or a crashed one's."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import AlreadyRunningError
from ..playground import Playground

DEFAULT_NAME = "demo"
_STOP_SECONDS = 10.0
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Site:
    """`name` is part of everything that a demonstration makes; two with different names do not disturb each other."""

    name: str = DEFAULT_NAME
    command: str = "demo"

    @property
    def directory(self) -> Path:
        """Its files; also the run directory of its agent."""
        return Path(f"/run/lockgate-{self.name}")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Nobody else uses it meanwhile. The kernel's lock vanishes with the process, however that ends.

        Raises:
            AlreadyRunningError: somebody does.
        """
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0lockgate-demo-{self.name}")
            except OSError:
                raise AlreadyRunningError(
                    f"another 'lockgate {self.command}' is at work under the name {self.name}; wait for it, or give "
                    "this one another --name"
                ) from None
            yield

    def clean(self, progress: Progress) -> None:
        """Removes everything; what is not there is fine. Not to be interrupted, or it would have to be done again."""
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _INTERRUPTS}
        try:
            if self.directory.exists():
                self._stop_agent()
                Playground.kill(self.name)  # an agent that was just starting would go on making what is taken away
                self._clean_node(progress)
            Playground.sweep(self.name)
            shutil.rmtree(self.directory, ignore_errors=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _clean_node(self, progress: Progress) -> None:
        command = [sys.executable, "-P", "-m", "lockgate", "agent", "clean", "--run-dir", str(self.directory)]
        namespace = Path("/run/netns", f"lg-{self.name}")
        # Never in the machine's own network, where an agent of the user's may have the same routes and rules.
        inside = ["nsenter", f"--net={namespace}"] if namespace.exists() else ["unshare", "--net"]
        cleaned = subprocess.run([*inside, "--", *command], capture_output=True, text=True, check=False)
        if cleaned.returncode != 0:
            progress(f"could not clean everything: {cleaned.stderr.strip()}")

    def _stop_agent(self) -> None:
        """Ends the demonstration's agent, if it still runs, and waits for its end."""
        try:
            pid = int((self.directory / "agent.lock").read_text())
            handle = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        try:
            if str(self.directory).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return  # the number belongs to another process by now
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            select.select([handle], [], [], _STOP_SECONDS)
        except OSError:
            return
        finally:
            os.close(handle)
