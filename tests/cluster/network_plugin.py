"""How pods are connected: Debian's CNI plugins, with addresses of the node's own prefix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Kind = Literal["bridge", "ptp"]


def write(folder: Path, kind: Kind, prefix: str, *, masquerade: bool) -> None:
    """The configuration of the only network. `bridge`: pods are on the bridge cni0. `ptp`: each has a veth that is
    routed. `masquerade`: whom pods ask outside of `prefix` sees the node's address."""
    pods: dict[str, Any] = {
        "type": kind,
        "ipMasq": masquerade,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": prefix}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    if kind == "bridge":
        pods |= {"bridge": "cni0", "isGateway": True, "hairpinMode": True}
    published = {"type": "portmap", "capabilities": {"portMappings": True}}
    told = {"cniVersion": "0.4.0", "name": "pods", "plugins": [pods, published]}
    new = folder / "new"
    new.write_text(json.dumps(told))
    new.rename(folder / "10-pods.conflist")
