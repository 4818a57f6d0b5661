"""What of the machine's file system is a node's own: one machine is shown as several to those who look from there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_AGENTS = ("/run/lockgate", "/var/lib/lockgate", "/var/cache/lockgate")
_KUBELETS = ("/var/lib/dockershim", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
_RUNTIMES = ("/run/containerd", "/run/netns", "/var/lib/cni")
PLACES = (*_AGENTS, *_KUBELETS, *_RUNTIMES)


class NodeFiles:
    """The machine's, but for `PLACES`, which are below `folder`, and a bpffs and shared memory of its own: that is what
    the manifest's hostPath volumes lead to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = [Path(place) for place in PLACES if not Path(place).exists()]
        for place in PLACES:
            Path(place).mkdir(exist_ok=True)
            self.place(place).mkdir(parents=True)

    def place(self, path: str) -> Path:
        """Where that is which pods find at `path` of the node."""
        return self._folder / path.strip("/").replace("/", "-")

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as the first process that has these files."""
        script = ["set -e", "mount --make-rprivate /"]
        script += [f"mount --bind {self.place(place)} {place}" for place in PLACES]
        script += ["mount -t bpf none /sys/fs/bpf", "mount -t tmpfs none /dev/shm"]
        # Shared, as systemd makes it: what the kubelet mounts the runtime's containers see.
        script += ["mount --make-rshared /", 'exec "$@"']
        return ["unshare", "--mount", "sh", "-c", "\n".join(script), "sh", *argv]

    def close(self) -> None:
        """Takes away what was made on the machine."""
        for place in self._made:
            with suppress(OSError):  # somebody else came to use it
                place.rmdir()


def end_all(mounts: tuple[int, int]) -> None:
    """Ends the processes that have the files of a node whose mount namespace is that, and waits for it."""
    deadline = time.monotonic() + 30
    while victims := [int(each.name) for each in Path("/proc").glob("[1-9]*") if _sees(each) == mounts]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {victims} do not end")
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _sees(process: Path) -> tuple[int, int] | None:
    try:
        told = (process / "ns/mnt").stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino
