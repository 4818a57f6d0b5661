"""A real kubelet on a node of the tests, with Debian's Docker as its runtime (Kubernetes 1.20 still speaks to that)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from lockgate.agent.playground import Namespace
from lockgate.tests.cluster.control_plane import BINARIES
from lockgate.tests.e2e.cluster_node import NODE
from lockgate.tests.e2e.engine import _PLAIN_RUNTIME, ROOT, Engine, _image

PAUSE = "pause:local"
_AGENTS = ("/run/lockgate", "/var/lib/lockgate", "/var/cache/lockgate")
_KUBELETS = ("/var/lib/dockershim", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
PLACES = (*_AGENTS, *_KUBELETS)
# What it would set on the machine; it is shown files of its own instead.
_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


class KubeletEngine(Engine):
    """Its containers ask for no limits: a kubelet gives each pod a rank for when memory runs out, which not every
    machine lets root do.

    What pods are shown of the node's file system is the machine's, but for `PLACES`, which are below `places`, and a
    bpffs of its own: that is what the manifest's hostPath volumes lead to.
    """

    def __init__(self, node: Namespace, folder: Path) -> None:
        self._runtime = folder.with_name("runtime")
        self._runtime.write_text(_PLAIN_RUNTIME.format(root=ROOT))
        self._runtime.chmod(0o755)
        self.places = folder.with_name("places")
        self._made = [Path(place) for place in PLACES if not Path(place).exists()]
        for place in PLACES:
            Path(place).mkdir(exist_ok=True)
            self.place(place).mkdir(parents=True)
        super().__init__("docker", node, folder)
        self.run(["docker", "import", "-c", 'CMD ["/bin/sleep", "1000000"]', "-", PAUSE], input=_image())

    @property
    def mounts(self) -> str:
        """The mount namespace of the node."""
        assert self._process is not None
        return f"/proc/{self._process.pid}/ns/mnt"

    def place(self, path: str) -> Path:
        """Where that is which pods find at `path` of the node."""
        return self.places / path.strip("/").replace("/", "-")

    def load(self, archive: Path) -> None:
        """An image that was saved."""
        self.docker("load", "-q", "-i", archive)

    def close(self) -> None:
        super().close()
        for place in self._made:
            place.rmdir()

    def _command(self) -> list[str]:
        script = ["set -e", "mount --make-rprivate /"]
        script += [f"mount --bind {self.place(place)} {place}" for place in PLACES]
        # Shared, as systemd makes it: what the kubelet mounts Docker's containers see.
        script += ["mount -t bpf none /sys/fs/bpf", "mount --make-rshared /", 'exec "$@"']
        command = [*super()._command(), "--add-runtime", f"plain={self._runtime}", "--default-runtime", "plain"]
        return ["unshare", "--mount", "sh", "-c", "\n".join(script), "sh", *command]


class Kubelet:
    """Runs at once, and makes the node an object of the cluster. Its pods are in control groups below /kubepods."""

    def __init__(self, folder: Path, node: Namespace, kubeconfig: Path, engine: KubeletEngine) -> None:
        folder.mkdir()
        self.log = folder / "log"
        script = ["set -e"]
        for name, value in _TUNABLES.items():
            shown = folder / name.replace("/", "-")
            shown.write_text(str(value))
            script.append(f"mount --bind {shown} /proc/sys/{name}")
        options = {
            "kubeconfig": kubeconfig,
            "hostname-override": NODE,
            "node-ip": "10.200.0.1",
            "root-dir": folder / "pods",
            "cert-dir": folder / "certificates",
            "volume-plugin-dir": folder / "plugins",
            "container-runtime": "docker",
            "docker-endpoint": engine.url,
            "pod-infra-container-image": PAUSE,
            "cgroup-driver": "cgroupfs",
            "fail-swap-on": "false",
            "image-gc-high-threshold": 100,
            "eviction-hard": "",  # the machine's disk is nothing to end a test's pods for
        }
        script.append(
            f"exec {BINARIES / 'kubelet'} " + " ".join(f"--{name}={value}" for name, value in options.items())
        )
        path = f"{ROOT}/usr/sbin:{ROOT}/usr/bin:{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self._process = node.popen(
                ["nsenter", f"--mount={engine.mounts}", "sh", "-c", "\n".join(script)],
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
        for top in Path("/sys/fs/cgroup").glob("*/kubepods"):
            for group in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
                _remove(group)
            _remove(top)


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
