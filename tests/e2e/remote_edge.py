"""A machine without an agent: a namespace with a web server, an Envoy of its own and a redirect to it by nft."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from cryptography import x509
from lockgate.agent.playground import NODE_IPV4, Pod
from lockgate.envoy.running.binary import find_binary
from lockgate.redirect.kernel import netns
from lockgate.tests.command_line import lockgate
from lockgate.tests.e2e.live_node import LiveNode

PORT = 18000
_REDIRECT = """
table inet lockgate {
  chain prerouting {
    type nat hook prerouting priority dstnat
    tcp dport 80 redirect to :15001
  }
}
"""


class Edge:
    """One such machine, reached by the agent's node as `pod` and known to it as `name`."""

    def __init__(self, node: LiveNode, name: str) -> None:
        self.node = node
        self.name = name
        self.pod: Pod = node.ground.pod(name, labels={"app": name})
        self.web = node.serve(self.pod, 80)
        self.folder = node.folder / name
        self.envoy: subprocess.Popen[bytes] | None = None
        loaded = self.pod.run(["nft", "-f", "-"], input=_REDIRECT)
        assert loaded.returncode == 0, loaded.stderr

    @property
    def workload(self) -> dict[str, Any]:
        """As an entry of the list of workloads."""
        return self.pod.workload() | {"netns": None, "node": self.name}

    @property
    def ips(self) -> tuple[IPv4Address, IPv6Address]:
        """Its addresses."""
        return self.pod.ips

    def configure(self, pki: Path, certificate: str = "", admin_port: int = 0) -> None:
        """What `lockgate envoy bootstrap` writes, with the certificate of this node or of another."""
        own = pki / (certificate or self.name)
        made = lockgate(
            *("envoy", "bootstrap", "--node", self.name, "--server", f"{NODE_IPV4}:{PORT}"),
            *("--authority", pki / "ca.pem", "--certificate", f"{own}.pem", "--key", f"{own}.key"),
            *("--output", self.folder, "--admin-port", admin_port),
        )
        assert made.status == 0, made

    def start(self, *options: str) -> None:
        """Start its Envoy."""
        command = [find_binary().path, "-c", self.folder / "envoy.json", "--disable-hot-restart", "--concurrency", "1"]
        command += ["--component-log-level", "misc:error"]
        with (self.folder / "envoy.log").open("wb") as log:
            self.envoy = self.pod.popen([*map(str, command), *options], stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        """To its Envoy."""
        assert self.envoy is not None
        self.envoy.send_signal(number)

    @property
    def log(self) -> str:
        """Its Envoy's."""
        return (self.folder / "envoy.log").read_text(errors="replace")

    def rejected(self) -> int:
        """How often its Envoy has refused a filter."""
        stats = ("envoy", "stats", "-f", "extension_config_discovery.*update_rejected", "-o", "json")
        shown = lockgate(*stats, "--run-dir", self.folder)
        assert shown.status == 0, shown
        return sum(value for value in shown.data.values() if isinstance(value, int))

    def serials(self) -> set[int]:
        """Of the certificates that its Envoy shows to the agent: where it asks, and where it is asked."""
        shown = lockgate("envoy", "certs", "-o", "json", "--run-dir", self.folder)
        chains = [each["cert_chain"] for each in shown.data["certificates"] if each.get("cert_chain")]
        return {int(chain[0]["serial_number"], 16) for chain in chains}


def shake_hands(node: LiveNode, pki: Path, own: str = "") -> int:
    """A TLS connection to the agent's port, with the certificate `own` or none; the serial number of the agent's.

    Raises OSError when the agent ends it.
    """
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    if own:
        context.load_cert_chain(pki / f"{own}.pem", pki / f"{own}.key")
    plain = netns.run_in(node.node.path, lambda: socket.create_connection((str(NODE_IPV4), PORT), timeout=10))
    with closing(plain), context.wrap_socket(plain, server_hostname=str(NODE_IPV4)) as secure:
        if not secure.recv(1):  # HTTP/2's settings; with TLS 1.3 the refusal of a client comes after the handshake
            raise ConnectionResetError("closed")
        found = secure.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found).serial_number


def serial_in(path: Path) -> int:
    """Of the certificate in a file."""
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number
