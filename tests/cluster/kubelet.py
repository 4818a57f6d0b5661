"""A real kubelet on a node of the tests, and the control groups that it makes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from lockgate.agent.playground import Namespace
from lockgate.tests.cluster.control_plane import BINARIES, DUAL_STACK
from lockgate.tests.cluster.runtime import Runtime
from lockgate.tests.e2e.engine import ROOT

_CGROUPS = Path("/sys/fs/cgroup")
# What it would set on the machine; it is shown files of its own instead.
_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


class Kubelet:
    """Runs at once, and makes the node `name` an object of the cluster. Its pods are in control groups below `group`:
    of two kubelets that share one each would end the other's pods."""

    def __init__(
        self,
        folder: Path,
        name: str,
        ip: str,
        node: Namespace,
        kubeconfig: Path,
        runtime: Runtime,
        group: str,
        dual: bool = False,
    ) -> None:
        folder.mkdir()
        self._group = group
        _make(group)
        self.log = folder / "log"
        script = ["set -e"]
        for tunable, value in _TUNABLES.items():
            shown = folder / tunable.replace("/", "-")
            shown.write_text(str(value))
            script.append(f"mount --bind {shown} /proc/sys/{tunable}")
        options = {
            "kubeconfig": kubeconfig,
            "hostname-override": name,
            "node-ip": ip,
            "root-dir": folder / "pods",
            "cert-dir": folder / "certificates",
            "volume-plugin-dir": folder / "plugins",
            "cgroup-driver": "cgroupfs",
            "cgroup-root": f"/{group}",
            "fail-swap-on": "false",
            "image-gc-high-threshold": 100,
            "eviction-hard": "",  # the machine's disk is nothing to end a test's pods for
            **runtime.options,
            **(DUAL_STACK if dual else {}),
        }
        script.append(f"exec {BINARIES / 'kubelet'} " + " ".join(f"--{key}={value}" for key, value in options.items()))
        path = f"{ROOT}/usr/sbin:{ROOT}/usr/bin:{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self._process = node.popen(
                ["nsenter", f"--mount={runtime.mounts}", "sh", "-c", "\n".join(script)],
                stdout=log,
                stderr=log,
                env=os.environ | {"PATH": path},
                start_new_session=True,
            )

    def close(self) -> None:
        """Ends it, and takes the control groups away that it made; its pods are to be gone before."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for top in _CGROUPS.glob(f"*/{self._group}"):
            for group in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
                _remove(group)
            _remove(top)


def _make(group: str) -> None:
    """In all hierarchies, with all that the machine has."""
    for top in sorted(each.parent for each in _CGROUPS.glob("*/cgroup.procs")):
        (top / group).mkdir(exist_ok=True)
        if top.name == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                (top / group / file).write_text((top / file).read_text())


def _remove(group: Path) -> None:
    """A control group that a process which ended is about to leave."""
    deadline = time.monotonic() + 30
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
