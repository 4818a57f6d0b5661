"""The agent's handle on Envoy: start it, adopt one that runs already, ask how it is, stop it.

Envoy's parent is a supervisor process of its own (see `supervisor`), so an agent that dies or is upgraded leaves Envoy
serving, and the next agent adopts it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import SupervisorError
from . import run_files
from .binary import EnvoyBinary
from .module_file import ModuleFile
from .run_files import Launch
from .supervisor_watch import SupervisorWatch

_log = logging.getLogger("lockgate.agent")
_START_TIMEOUT = 30.0
_HEARD_LOOKS = 100  # until the supervisor has noticed that it was asked for something


class Phase(StrEnum):
    """What the supervisor is doing."""

    RUNNING = run_files.RUNNING
    WAITING = run_files.WAITING
    STOPPING = run_files.STOPPING
    STOPPED = run_files.STOPPED


@dataclass(frozen=True, slots=True)
class EnvoyStatus:
    """How the node's Envoy is, as its supervisor tells. Whether it is ready, `Admin.ready` knows."""

    phase: Phase
    supervisor_pid: int | None
    envoy_pid: int | None
    uptime: float | None  # seconds
    restarts: int
    last_exit: str  # in words, empty when it never went away
    retry_in: float | None  # seconds to the next start, while waiting
    version: str
    current: bool  # it runs the binary, bootstrap and arguments that this agent wants
    coming: bool = False  # its supervisor is about to replace it by what this agent wants
    hot: bool = False  # it can be replaced without a gap
    epoch: int = 0  # hot restarts since the last cold start
    starting_pid: int | None = None  # its successor, which has not taken over yet
    leaving_pid: int | None = None  # its predecessor, which serves what it still has
    hot_failure: str = ""  # why the last hot restart failed
    untold: bool = False  # it has ended, and its supervisor has not told what came then
    hangs: int = 0  # Envoys that this supervisor has ended for hanging
    silent: float | None = None  # seconds for which a thread has done nothing, when that is worth telling
    silent_thread: str = ""
    supervisor_idle: bool = False  # the supervisor does nothing either, and should

    @property
    def serves_as_wanted(self) -> bool:
        """True when what this agent wants serves, and none before it accepts connections any more."""
        return self.phase is Phase.RUNNING and self.current and self.starting_pid is None

    @property
    def sentence(self) -> str:
        """One line for `lockgate status`."""
        if self.supervisor_idle:
            return f"{self._sentence}; its supervisor (pid {self.supervisor_pid}) hangs"
        return self._sentence

    @property
    def _sentence(self) -> str:
        if self.phase is Phase.RUNNING:
            parts = [f"running, Envoy {self.version}, pid {self.envoy_pid}"]
            if self.starting_pid is not None:
                parts.append(f"pid {self.starting_pid} is about to take over")
            if self.leaving_pid is not None:
                parts.append(f"pid {self.leaving_pid} ends with its last connections")
            if self.silent is not None:
                parts.append(f"its {self.silent_thread} has done nothing for {self.silent:.0f} s")
            if self.restarts:
                parts.append(f"restarted {self.restarts} times; last: {self.last_exit}")
            if self.hot_failure:
                parts.append(f"its replacement failed and is tried again: {self.hot_failure}")
            return ", ".join(parts)
        if self.untold:
            return f"pid {self.envoy_pid} has ended, and its supervisor has not told what came then; is the disk full?"
        if self.phase is Phase.WAITING:
            return f"down, starting again in {self.retry_in or 0:.1f} s; {self.last_exit}"
        return str(self.phase)


class EnvoyProcess:
    """The Envoy of one run dir.

    `module` is what the bootstrap's dynamic modules come from. `concurrency` is the number of worker threads, None for
    one per CPU. `drain` is how many seconds a replaced Envoy has to end with its connections; 0 is for none that could
    be replaced without a gap. `hang` is for how many seconds a thread may do nothing before Envoy is ended and started
    anew; 0 is for any number. `patience` is how many a successor has to take over. `control_group`, if not empty, is
    where they are to be, so that no container's end is theirs. Two agents must not share a run dir.
    """

    def __init__(
        self,
        run_dir: Path,
        binary: EnvoyBinary,
        bootstrap: bytes,
        *,
        module: ModuleFile | None = None,
        concurrency: int | None = None,
        log_level: str = "warning",
        grace: float = 5.0,
        healthy_after: float = 10.0,
        drain: float = 300.0,
        control_group: str = "",
        hang: float = run_files.HANG,
        patience: float = 60.0,
    ) -> None:
        self.run_dir = run_dir
        self._binary = binary
        self._bootstrap = bootstrap
        self._module = module
        self._turn = asyncio.Lock()
        self._asked = 0  # the supervisor that was told to replace Envoy
        # Named by its content: the one that is being replaced may have to be started once more.
        self._file = run_dir / f"{run_files.BOOTSTRAP}.{hashlib.sha256(bootstrap).hexdigest()[:12]}.pb"
        command = [str(binary.path), "-c", str(self._file), "--log-level", log_level]
        command += ["--skip-deprecated-logs", "--file-flush-interval-msec", "500"]
        # Its warnings are one line for each address in each update: CidrRange and IPMatcher are "work in progress".
        command += ["--component-log-level", "misc:error"]
        if concurrency is not None:
            command += ["--concurrency", str(concurrency)]
        self._launch = Launch(
            command=tuple(command),
            version=binary.version,
            digest=self._digest(command),
            environment=() if module is None else tuple(module.environment.items()),
            grace=grace,
            healthy_after=healthy_after,
            drain=drain,
            control_group=control_group,
            paths_of=os.getpid() if control_group else 0,
            hang=hang,
            patience=patience,
        )
        self._supervisor = SupervisorWatch(run_dir, hang)

    def _digest(self, command: list[str]) -> str:
        file = self._binary.path.stat()
        module = None if self._module is None else [str(self._module.path), self._module.sources]
        bootstrap = hashlib.sha256(self._bootstrap).hexdigest()
        parts = [command, file.st_ino, file.st_mtime_ns, file.st_size, bootstrap, module]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def ensure(self) -> EnvoyStatus:
        """Make sure that a supervisor keeps *this* Envoy running.

        One that does already is left alone (adopted); one that runs another binary, bootstrap or command is replaced,
        by a hot restart if it can be: then it serves until its successor has taken over. Raises `SupervisorError` when
        a supervisor cannot be started. An Envoy that ends at once is no error here: see `EnvoyStatus.last_exit`.
        """
        async with self._turn:
            try:
                await self._end_hung_supervisor()
                return await self._ensure()
            except (OSError, RuntimeError) as error:  # no descriptor, no process, no thread
                raise SupervisorError(f"the supervisor of Envoy cannot be asked or started: {error}") from error

    async def _ensure(self) -> EnvoyStatus:
        status = self._status()
        if status.supervisor_pid is not None:
            if (status.current or status.coming) and status.phase in (Phase.RUNNING, Phase.WAITING):
                self._tell_limit(status.supervisor_pid)
                return status
            self._write()  # before anything ends: there may be no room for it
            if status.hot and status.phase in (Phase.RUNNING, Phase.WAITING):
                await self._replace(status.supervisor_pid)
                return self._status()
            await self._stop()
        await self._start()
        return self._status()

    async def status(self) -> EnvoyStatus:
        """What the supervisor says; phase STOPPED when there is none, whatever its last state file claims.

        Raises OSError when nothing can be read.
        """
        return self._status()

    async def stop(self) -> None:
        """End Envoy and its supervisor. Does nothing when none runs."""
        self._supervisor.close()
        async with self._turn:
            await self._stop()

    def _status(self) -> EnvoyStatus:
        state = run_files.read_state(self.run_dir)
        holder = run_files.lock_holder(self.run_dir)
        if state is None or holder is None or state.supervisor_pid != holder:
            return EnvoyStatus(
                phase=Phase.STOPPED,
                supervisor_pid=holder,
                envoy_pid=None,
                uptime=None,
                restarts=state.restarts if state else 0,
                last_exit=state.last_exit if state else "",
                retry_in=None,
                version=self._launch.version,
                current=False,
            )
        now = time.monotonic()
        phase = Phase(state.phase)
        untold = phase is Phase.RUNNING and run_files.start_ticks(state.envoy_pid) != state.envoy_ticks
        if untold:
            phase = Phase.WAITING
        return EnvoyStatus(
            phase=phase,
            supervisor_pid=holder,
            envoy_pid=state.envoy_pid or None,
            uptime=now - state.since if phase is Phase.RUNNING else None,
            restarts=state.restarts,
            last_exit=state.last_exit,
            untold=untold,
            retry_in=None if state.next_try is None else max(0.0, state.next_try - now),
            version=state.version,
            current=state.digest == self._launch.digest,
            coming=state.wanted_digest == self._launch.digest,
            hot=state.hot,
            epoch=state.epoch,
            starting_pid=state.starting[0] if state.starting else None,
            leaving_pid=state.leaving[0] if state.leaving else None,
            hot_failure=state.hot_failure,
            hangs=state.hangs,
            silent=None if state.silent_since is None else now - state.silent_since,
            silent_thread=state.silent_thread,
            supervisor_idle=state.hang is not None and self._supervisor.idle,
        )

    async def _end_hung_supervisor(self) -> None:
        state, holder = run_files.read_state(self.run_dir), run_files.lock_holder(self.run_dir)
        if state is None or state.supervisor_pid != holder:
            return
        wanted = self._launch.digest
        asked = self._asked == holder and wanted not in (state.digest, state.wanted_digest)
        if self._supervisor.hangs(time.monotonic(), state, asked):
            _log.error(
                "Envoy's supervisor (pid %d) hangs: it is ended, and Envoy with it, and both are started anew", holder
            )
            self._supervisor.close()
            await self._stop(signal.SIGKILL)

    def _tell_limit(self, supervisor: int) -> None:
        """One that knows of `hang` is to go by this one."""
        state = run_files.read_state(self.run_dir)
        if state is not None and state.hang is not None and state.hang != self._launch.hang:
            self._write()
            with suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGUSR1)

    def _write(self) -> None:
        """What the supervisor is to run. Older bootstraps stay until it starts anew."""
        directory = self.run_dir
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            run_files.write_atomically(self._file, self._bootstrap)
            state = run_files.read_state(directory)
            knows = state is None or state.hang is not None or run_files.lock_holder(directory) is None
            run_files.write_launch(directory, self._launch if knows else self._launch._replace(hang=run_files.HANG))
        except OSError as error:
            raise SupervisorError(f"cannot write to the run dir {directory}: {error.strerror}") from error

    async def _replace(self, supervisor: int) -> None:
        """Has the supervisor read the launch again, and waits until it has: two wishes at once would be one."""
        before = run_files.read_state(self.run_dir)
        self._asked = supervisor
        with suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGHUP)
        for _ in range(_HEARD_LOOKS):
            if run_files.read_state(self.run_dir) != before:
                return
            await asyncio.sleep(0.02)

    async def _start(self) -> None:
        directory = self.run_dir
        self._write()
        for path in directory.glob(f"{run_files.BOOTSTRAP}*"):
            if path != self._file:
                path.unlink(missing_ok=True)
        # -P: the current folder must not come first on the path, it may hold a package called `envoy`.
        starter = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "lockgate.envoy.running.supervisor",
            "--detach",
            str(directory),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, reason = await asyncio.wait_for(starter.communicate(), _START_TIMEOUT)
        except TimeoutError as error:
            starter.kill()
            await starter.wait()
            raise SupervisorError(f"the supervisor of Envoy did not start within {_START_TIMEOUT:g} s") from error
        if starter.returncode != 0:
            text = reason.decode(errors="replace").strip() or f"status {starter.returncode}"
            raise SupervisorError(f"the supervisor of Envoy did not start: {text}")

    async def _stop(self, first: signal.Signals = signal.SIGTERM) -> None:
        directory = self.run_dir
        pid = run_files.lock_holder(directory)
        if pid is None:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # Only now is it certain that `pidfd` is the holder's and not a later process's with the same pid.
            if run_files.lock_holder(directory) != pid:
                return
            for number, patience in ((first, self._launch.grace + 5), (signal.SIGKILL, 5.0)):
                signal.pidfd_send_signal(pidfd, number)
                if await asyncio.to_thread(select.select, [pidfd], [], [], patience) != ([], [], []):
                    return
        except ProcessLookupError:
            return
        finally:
            os.close(pidfd)
        raise SupervisorError(f"the supervisor of Envoy (pid {pid}) does not end, not even by SIGKILL")
