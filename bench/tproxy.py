"""One Envoy on the node and no eBPF: nft TPROXY hands it the connections to the server's port.

The Envoy is a sidecar's (sidecar.py), with what a node's needs: it stands on loopback, is transparent, and goes on from
the client's own address. What differs from L7-policed is how packets get to it, and what its listener is made of.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from lockgate.agent.playground import Playground
from lockgate.redirect.kernel import netns

from . import counter
from .errors import StartError
from .mode import PORT, Mode, spawn
from .sidecar import configuration

_LISTENER = 15001
_MARK, _TABLE = "0x200", "100"
_NFT = f"""\
table ip shared {{
    chain prerouting {{
        type filter hook prerouting priority mangle;
        meta l4proto tcp socket transparent 1 meta mark set {_MARK} accept
        tcp dport {PORT} tproxy to 127.0.0.1:{_LISTENER} meta mark set {_MARK} accept
    }}
}}
"""
_ROUTES = (
    ["ip", "rule", "add", "fwmark", _MARK, "lookup", _TABLE],
    ["ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", _TABLE],
)
_ENVOY = "envoy"


class Tproxy(Mode):
    """One pass through one Envoy, as L7-policed."""

    key = "tproxy"
    title = "nft TPROXY"
    forbidden = "403"
    intruder_gets = "403"  # judged by its address, in Envoy
    proxied = True

    def _engage(self, playground: Playground) -> None:
        node = playground.node
        netns.run_in(node.path, _accept_any_source)
        for command, given in ((["nft", "-f", "-"], _NFT), *((route, "") for route in _ROUTES)):
            done = node.run(command, input=given)
            if done.returncode != 0:
                raise StartError(f"{self.title}: {' '.join(command)} failed: {done.stderr.strip()}")
        file = self.directory / "envoy.json"
        file.write_text(json.dumps(self._configuration(), indent=1))
        start: list[str | Path] = [self.ground.envoy, "-c", file, "--concurrency", str(self.ground.threads)]
        start += ["--disable-hot-restart", "--log-level", "warning"]
        with self.log_of(_ENVOY).open("wb") as log:
            self._envoy = spawn(node, start, stdout=log, stderr=subprocess.STDOUT)

    def _configuration(self) -> dict[str, Any]:
        made = configuration(self._admin, self.client.ipv4)
        [listener] = [each for each in made["static_resources"]["listeners"] if each["name"] == "inbound"]
        original_src = "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc"
        listener["transparent"] = True
        listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": _LISTENER}}
        listener["listener_filters"] += [
            {"name": "envoy.filters.listener.original_src", "typed_config": {"@type": original_src}}
        ]
        made["static_resources"]["listeners"] = [listener]
        return made

    @property
    def _admin(self) -> Path:
        return self.directory / "envoy.sock"

    def _parts(self) -> list[tuple[str, subprocess.Popen[bytes]]]:
        return [*super()._parts(), (_ENVOY, self._envoy)]

    def counted(self) -> tuple[int, ...]:
        return (counter.requests(self._admin, ["inbound"]),)


def _accept_any_source() -> None:
    """Answers of a server come for an address that is a client's: no route of the node's leads back that way."""
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
