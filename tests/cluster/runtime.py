"""What a kubelet runs pods by, as tests ask it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lockgate.tests.cluster.node_files import NodeFiles

PAUSE = "pause:local"


class Runtime(Protocol):
    """It runs from the moment at which it is made."""

    files: NodeFiles

    @property
    def options(self) -> Mapping[str, object]:
        """Of the kubelet, which says by them where the runtime is."""

    @property
    def mounts(self) -> str:
        """The mount namespace of the node."""

    def load(self, archive: Path, name: str) -> None:
        """An image that podman saved, under a name that pods have for it."""

    def containers(self, pod: str = "", container: str = "") -> list[str]:
        """The numbers of those that run: of one pod of the namespace default, or of all; one of its containers, or all,
        with the sandbox."""

    def own_container(self) -> str:
        """The number of the one of the DaemonSet's."""

    def pid(self, container: str) -> int:
        """Of its first process."""

    def another(self, image: str, touched: str, name: str) -> None:
        """Makes an image of another, in which a file is a new one of the same content."""

    def close(self) -> None:
        """Ends it and what it runs."""
