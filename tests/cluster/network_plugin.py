"""How pods are connected: Debian's CNI plugins, with addresses of the node's own prefix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Kind = Literal["bridge", "ptp"]


def write(folder: Path, kind: Kind, prefixes: Sequence[str], *, masquerade: bool) -> None:
    """The configuration of the only network. `bridge`: pods are on the bridge cni0. `ptp`: each has a veth that is
    routed. A pod has an address of each prefix. `masquerade`: whom pods ask outside of these sees the node's
    address."""
    pods: dict[str, Any] = {
        "type": kind,
        "ipMasq": masquerade,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": each}] for each in prefixes],
            "routes": [{"dst": "::/0" if ":" in each else "0.0.0.0/0"} for each in prefixes],
        },
    }
    if kind == "bridge":
        pods |= {"bridge": "cni0", "isGateway": True, "hairpinMode": True}
    published = {"type": "portmap", "capabilities": {"portMappings": True}}
    told = {"cniVersion": "0.4.0", "name": "pods", "plugins": [pods, published]}
    new = folder / "new"
    new.write_text(json.dumps(told))
    new.rename(folder / "10-pods.conflist")
