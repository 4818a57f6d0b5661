"""Debian's containerd under a kubelet, with Debian's CNI plugins: one that has nothing in common with the machine's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lockgate.agent.playground import Namespace
from lockgate.tests.cluster.image_archive import of_one_layer, tar, upon
from lockgate.tests.cluster.node_files import NodeFiles, end_all
from lockgate.tests.cluster.runtime import PAUSE
from lockgate.tests.e2e.engine import _PLAIN_RUNTIME, IMAGE, ROOT, _image, _mounts_below, environment

_LIBRARY = "docker.io/library/"  # what a name without a place is short for
_CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/s"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/usr/lib/cni"
conf_dir = "{folder}/networks"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{folder}/plain"
"""


class Containerd:
    """Below `folder` (a short path: sockets are there). Its pods wait until a network is in `networks`. They ask for no
    limits, as not every machine lets root raise them."""

    def __init__(self, node: Namespace, folder: Path) -> None:
        self._node = node
        self._folder = folder
        self.networks = folder / "networks"
        self.networks.mkdir(parents=True)
        (folder / "plain").write_text(_PLAIN_RUNTIME.format(root=ROOT))
        (folder / "plain").chmod(0o755)
        (folder / "config.toml").write_text(_CONFIG.format(folder=folder, root=ROOT, pause=_LIBRARY + PAUSE))
        self.files = NodeFiles(folder / "places")
        with (folder / "log").open("wb") as log:
            command = self.files.command(["containerd", "--config", str(folder / "config.toml")])
            self._process = node.popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
        deadline = time.monotonic() + 60
        while self._tried("version").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"containerd does not start:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)
        told = Path(self.mounts).stat()
        self._mounts = told.st_dev, told.st_ino
        for name, command in ((IMAGE, []), (PAUSE, ["/bin/sleep", "1000000"])):
            self._import(of_one_layer(name, _image(), command))

    @property
    def options(self) -> Mapping[str, object]:
        endpoint = f"unix://{self._folder}/s"
        return {
            "container-runtime": "remote",
            "container-runtime-endpoint": endpoint,
            "image-service-endpoint": endpoint,
        }

    @property
    def mounts(self) -> str:
        return f"/proc/{self._process.pid}/ns/mnt"

    def load(self, archive: Path, name: str) -> None:
        self.ctr("images", "import", archive)
        self.ctr("images", "tag", f"localhost/{name}", _LIBRARY + name)

    def containers(self, pod: str = "", container: str = "") -> list[str]:
        wanted = {"pod.name": pod, "pod.namespace": "default" if pod else "", "container.name": container}
        return self._running({key: value for key, value in wanted.items() if value})

    def own_container(self) -> str:
        (container,) = self._running({"pod.namespace": "lockgate", "container.name": "lockgate"})
        return container

    def pid(self, container: str) -> int:
        return self._tasks()[container]

    def another(self, image: str, touched: str, name: str) -> None:
        manifest = self._content(self._digest(_LIBRARY + image))
        config = self._content(manifest["config"]["digest"])
        path = touched.lstrip("/")
        layer = tar({path: self._in_layers([each["digest"] for each in manifest["layers"]], path)}, 0o755)
        self._import(upon(manifest, config, layer, _LIBRARY + name))

    def ctr(self, *arguments: object) -> str:
        """A command of containerd's own; what it printed."""
        ended = self._tried(*arguments)
        if ended.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(map(str, arguments))}: {ended.stderr.decode()}")
        return ended.stdout.decode()

    def close(self) -> None:
        """Pods are to be gone before; what is left of them is ended."""
        for pid in self._tasks().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_all(self._mounts)
        self._process.wait()
        for mount in reversed(_mounts_below(self._folder)):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        self.files.close()
        shutil.rmtree(self._folder)

    def _running(self, labels: Mapping[str, str]) -> list[str]:
        wanted = ",".join(f'labels."io.kubernetes.{key}"=={value}' for key, value in labels.items())
        tasks = self._tasks()
        return [each for each in self.ctr("containers", "list", "--quiet", wanted).split() if each in tasks]

    def _tasks(self) -> dict[str, int]:
        rows = (line.split() for line in self.ctr("tasks", "list").splitlines()[1:])
        return {number: int(pid) for number, pid, status in rows if status == "RUNNING"}

    def _import(self, image: bytes) -> None:
        archive = self._folder / "image.tar"
        archive.write_bytes(image)
        self.ctr("images", "import", archive)
        archive.unlink()

    def _content(self, digest: str) -> Any:
        return json.loads(self.ctr("content", "get", digest))

    def _digest(self, image: str) -> str:
        for line in self.ctr("images", "list", f"name=={image}").splitlines()[1:]:
            return line.split()[2]
        raise KeyError(image)

    def _in_layers(self, digests: list[str], path: str) -> bytes:
        """The file of the uppermost that has it."""
        for digest in reversed(digests):
            blob = self._folder / "root/io.containerd.content.v1.content/blobs/sha256" / digest.partition(":")[2]
            with tarfile.open(blob) as layer, suppress(KeyError):
                found = layer.extractfile(path)
                assert found is not None
                return found.read()
        raise KeyError(path)

    def _tried(self, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = ["ctr", "--address", f"{self._folder}/s", "--namespace", "k8s.io", *map(str, arguments)]
        return subprocess.run(
            self._node.command(command), env=environment(), capture_output=True, timeout=300, check=False
        )
