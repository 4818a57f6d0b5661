"""Debian's Docker under a kubelet (Kubernetes 1.20 still speaks to that), with pods on Docker's default bridge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lockgate.agent.playground import Namespace
from lockgate.tests.cluster.node_files import NodeFiles
from lockgate.tests.cluster.runtime import PAUSE
from lockgate.tests.e2e.engine import _PLAIN_RUNTIME, ROOT, Engine, _image


class DockerRuntime(Engine):
    """Its containers ask for no limits: a kubelet gives each pod a rank for when memory runs out, which not every
    machine lets root do."""

    def __init__(self, node: Namespace, folder: Path) -> None:
        self._runtime = folder.with_name("runtime")
        self._runtime.write_text(_PLAIN_RUNTIME.format(root=ROOT))
        self._runtime.chmod(0o755)
        self.files = NodeFiles(folder.with_name("places"))
        super().__init__("docker", node, folder)
        self.run(["docker", "import", "-c", 'CMD ["/bin/sleep", "1000000"]', "-", PAUSE], input=_image())
        # Docker's own rules forward nothing but its containers' traffic; this is about ours.
        self.run(["iptables", "-P", "FORWARD", "ACCEPT"])

    @property
    def options(self) -> Mapping[str, object]:
        return {"container-runtime": "docker", "docker-endpoint": self.url, "pod-infra-container-image": PAUSE}

    @property
    def mounts(self) -> str:
        assert self._process is not None
        return f"/proc/{self._process.pid}/ns/mnt"

    def load(self, archive: Path, name: str) -> None:
        self.docker("load", "-q", "-i", archive)
        self.docker("tag", f"localhost/{name}", name)

    def containers(self, pod: str = "", container: str = "") -> list[str]:
        name = f"{f'k8s_{container}' if container else ''}_{pod}_default_" if pod else ""
        return self.docker("ps", "-q", "--no-trunc", "--filter", f"name={name}").split()

    def own_container(self) -> str:
        (container,) = self.docker("ps", "-q", "--filter", "name=k8s_lockgate_lockgate-").split()
        return container

    def pid(self, container: str) -> int:
        return self.inside(container).pid

    def another(self, image: str, touched: str, name: str) -> None:
        self.docker("run", "--name", "other", "--network", "none", "--entrypoint", "/bin/touch", image, touched)
        told = json.loads(self.docker("image", "inspect", image))[0]["Config"]
        changes = [("-c", f"{key.upper()} {json.dumps(told[key])}") for key in ("Entrypoint", "Cmd")]
        self.docker("commit", *(word for change in changes for word in change), "other", name)
        self.docker("rm", "other")

    def close(self) -> None:
        super().close()
        self.files.close()

    def _command(self) -> list[str]:
        command = [*super()._command(), "--add-runtime", f"plain={self._runtime}", "--default-runtime", "plain"]
        return self.files.command(command)
