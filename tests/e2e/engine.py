"""A real container engine in a network namespace: Debian's Docker or Podman, unpacked by scripts/engines.

Both are spoken to with Docker's command line. The one image holds a static busybox. Containers' own limits are left as
the machine has them: not every machine may raise them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from lockgate.agent.playground import Namespace

ROOT = Path(__file__).parents[2] / ".engines" / "root"
IMAGE = "base:local"
APPLETS = ("sh", "sleep", "wget", "httpd", "ip", "nc", "cat")
KINDS = ("docker", "podman")

_CONTAINERS_CONF = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = ["{root}/usr/bin/conmon"]
helper_binaries_dir = ["{root}/usr/lib/podman"]
tmp_dir = "{folder}/tmp"
runtime = "plain"
[engine.runtimes]
plain = ["{folder}/plain"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["{root}/usr/lib/cni"]
network_config_dir = "{folder}/networks"
"""
_PLAIN_RUNTIME = """#!/usr/bin/python3
import json, os, sys
for option, name in (("--bundle", "config.json"), ("--process", "")):
    if option in sys.argv:
        path = os.path.join(sys.argv[sys.argv.index(option) + 1], name).rstrip("/")
        spec = json.load(open(path))
        for limit in ("rlimits", "oomScoreAdj"):
            spec.get("process", spec).pop(limit, None)
        json.dump(spec, open(path, "w"))
os.execv("{root}/usr/bin/runc", ["runc", *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Inside:
    """The network of a running container, where `fetch` and `Web` may work."""

    id: str
    pid: int
    ip: str

    @property
    def path(self) -> Path:
        """Its namespace."""
        return Path(f"/proc/{self.pid}/ns/net")


class Engine:
    """One engine with its files below `folder` (a short path: sockets are there). Starts at once."""

    def __init__(self, kind: str, node: Namespace, folder: Path) -> None:
        if not ROOT.is_dir():
            raise RuntimeError(f"{ROOT} does not exist: run scripts/engines, which unpacks Debian's engines there")
        self.kind = kind
        self.node = node
        self.folder = folder
        self.socket = folder / "s"
        self.proxies = False  # Docker's default: a process for each published port, besides rules
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        if kind == "podman":
            self._configure_podman()
        self.start()
        self.run(["docker", "import", "-", IMAGE], input=_image())

    @property
    def url(self) -> str:
        """As `engines` in the agent's configuration names it."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Starts the daemon and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = self.node.popen(
                self._command(), stdout=log, stderr=log, env=self._environment(), start_new_session=True
            )
        deadline = time.monotonic() + 60
        while self._tried("docker", "version").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} does not start:\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends the daemon. Containers live on after SIGKILL; Podman's always do."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None
        if self.kind == "docker" and number == signal.SIGKILL:
            # containerd dies with Docker, but may stay as a zombie for a while, which the next Docker takes for alive.
            (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def docker(self, *arguments: object) -> str:
        """A command of Docker's; what it printed."""
        return self.run(["docker", *map(str, arguments)]).decode().strip()

    def container(self, name: str, *options: object) -> Inside:
        """Starts a container that sleeps."""
        self.docker("run", "-d", "--name", name, *options, IMAGE, "/bin/sleep", 10000)
        return self.inside(name)

    def said(self, *arguments: object) -> str:
        """A command of Docker's; all that it said, whether it failed or not."""
        ended = self._tried("docker", *map(str, arguments))
        return (ended.stdout + ended.stderr).decode().strip()

    def execute(self, name: str, *command: object) -> str:
        """Runs a command in a container; all that it said, whether it failed or not."""
        return self.said("exec", name, *command)

    def inside(self, name: str) -> Inside:
        """Where a container is now."""
        told: dict[str, Any] = json.loads(self.docker("inspect", name))[0]
        addresses = [each["IPAddress"] for each in told["NetworkSettings"]["Networks"].values() if each["IPAddress"]]
        return Inside(told["Id"], told["State"]["Pid"], addresses[0] if addresses else "")

    def run(self, argv: list[str], input: bytes | None = None) -> bytes:
        """A command with this engine as its own; what it printed."""
        ended = self._tried(*argv, input=input)
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {ended.stderr.decode()}")
        return ended.stdout

    def close(self) -> None:
        """Removes every container and the engine."""
        if self._process is None:
            self.start()
        for number in self.docker("ps", "-aq").split():
            self.docker("rm", "-f", number)
        self.stop()
        for mount in reversed(_mounts_below(self.folder)):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder)

    def _tried(self, *argv: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.node.command(argv), env=self._environment(), input=input, capture_output=True, timeout=120, check=False
        )

    def _command(self) -> list[str]:
        if self.kind == "podman":
            folders = ["--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]
            return ["podman", *folders, "system", "service", "--time=0", self.url]
        folders = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        return [
            "dockerd",
            *folders,
            "-H",
            self.url,
            "-p",
            f"{self.folder}/pid",
            f"--userland-proxy={str(self.proxies).lower()}",
            "--live-restore",
        ]

    def _environment(self) -> dict[str, str]:
        return environment() | {
            "DOCKER_HOST": self.url,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "HOME": str(self.folder),
        }

    def _configure_podman(self) -> None:
        policy = self.folder / ".config" / "containers"
        policy.mkdir(parents=True)
        (policy / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (self.folder / "networks").mkdir()
        (self.folder / "containers.conf").write_text(_CONTAINERS_CONF.format(root=ROOT, folder=self.folder))
        runtime = self.folder / "plain"
        runtime.write_text(_PLAIN_RUNTIME.format(root=ROOT))
        runtime.chmod(runtime.stat().st_mode | stat.S_IXUSR)


def environment() -> dict[str, str]:
    """In which the unpacked programs run."""
    return os.environ | {
        "PATH": f"{ROOT}/usr/sbin:{ROOT}/usr/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{ROOT}/usr/lib/x86_64-linux-gnu:{ROOT}/usr/lib/aarch64-linux-gnu",
        "XTABLES_LIBDIR": str(next(ROOT.glob("usr/lib/*/xtables"))),
    }


def _image() -> bytes:
    """A tar with busybox under the names of what tests use."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as image:
        image.add(ROOT / "bin" / "busybox", "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
    return made.getvalue()


def _mounts_below(folder: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [mount for mount in mounts if mount.startswith(f"{folder}/")]
