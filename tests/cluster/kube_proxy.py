"""A node's kube-proxy, by which who is no socket of a pod finds a service."""

from __future__ import annotations

from pathlib import Path

from lockgate.agent.playground import Namespace
from lockgate.tests.cluster.control_plane import BINARIES, DUAL_STACK
from lockgate.tests.e2e.engine import environment


class KubeProxy:
    """Runs at once, in the mode that writes rules of iptables."""

    def __init__(self, folder: Path, name: str, node: Namespace, kubeconfig: Path, dual: bool) -> None:
        folder.mkdir()
        options: dict[str, object] = {
            "kubeconfig": kubeconfig,
            "hostname-override": name,
            "proxy-mode": "iptables",
            **{f"conntrack-{each}": 0 for each in ("max-per-core", "tcp-timeout-established")},
            "conntrack-tcp-timeout-close-wait": 0,
            **(DUAL_STACK if dual else {}),
        }
        command: list[str | Path] = [BINARIES / "kube-proxy", *(f"--{key}={value}" for key, value in options.items())]
        with (folder / "log").open("wb") as log:
            self._process = node.popen(
                command, stdout=log, stderr=log, env=environment(), start_new_session=True, cwd=folder
            )

    def close(self) -> None:
        """Its rules stay."""
        self._process.kill()
        self._process.wait()
