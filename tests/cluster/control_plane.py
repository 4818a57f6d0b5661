"""The API of a real Kubernetes in a network namespace: etcd and kube-apiserver, with TLS, RBAC and tokens of service
accounts, as `scripts/cluster` built them.

Without `whole` no scheduler or controller runs: what these would do (pods, endpoints) tests do. A kubelet is a thing of
its own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.engine import environment
from lockgate.tests.kubernetes_certificates import certificates

BINARIES = Path(__file__).parents[2] / ".cluster" / "bin"
ADMIN = "a-token-of-the-administrator"
PORT, ETCD_PORT, ETCD_PEERS = 6443, 2379, 2380
HOST = "10.200.0.1"  # of the node
_SERVICE = "10.96.0.1"  # default/kubernetes, the first address of services
_WHOLE = ("kube-controller-manager", "kube-scheduler")
PODS = "10.244.0.0/16"  # each node has a part of it
SERVICES = "10.96.0.0/16"
# What a cluster of both families has besides, and how its programs are told (before 1.21).
PODS_IPV6, SERVICES_IPV6 = "fd00:244::/48", "fd00:96::/112"
DUAL_STACK = {"feature-gates": "IPv6DualStack=true"}
log = logging.getLogger(__name__)
_PATIENCE = 120.0  # seconds
# Who is asked about: tests count what the agent asks for.
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata", "users": ["system:serviceaccount:lockgate:lockgate"]}, {"level": "None"}],
}


class ControlPlane:
    """Runs at once. `whole`: with kube-controller-manager and kube-scheduler, and for other nodes too, at `host`.
    `dual`: pods and services may have addresses of both families."""

    def __init__(
        self, folder: Path, where: Namespace, *, whole: bool = False, host: str = HOST, dual: bool = False
    ) -> None:
        if not (BINARIES / "kube-apiserver").exists():
            raise RuntimeError(f"{BINARIES} has no kube-apiserver: run scripts/cluster, which builds it")
        self.folder = folder
        self.where = where
        self._whole = whole
        self._dual = dual
        self.host = host
        self.authority, self._certificate = certificates(folder, host, _SERVICE)
        self.audit = folder / "audit.log"
        self.kubeconfig = self._files()
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []
        try:
            self.start_etcd()
            self.start_server()
            if whole:
                self._start_others()
        except BaseException:
            self.close()
            raise

    def start_etcd(self) -> None:
        """With the data that it had."""
        own, peers = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PEERS}"
        self._etcd = self._run(
            "etcd",
            {
                "data-dir": self.folder / "etcd",
                "listen-client-urls": own,
                "advertise-client-urls": own,
                "listen-peer-urls": peers,
                "initial-advertise-peer-urls": peers,
                "initial-cluster": f"default={peers}",
            },
        )
        log.info("etcd starts")
        self._until("etcd", lambda: self.etcdctl("endpoint", "health") is not None)

    def start_server(self) -> None:
        """At the port that it always has, and waits until it serves."""
        self.audit.unlink(missing_ok=True)
        key = self.folder / "accounts.key"
        self._server = self._run(
            "kube-apiserver",
            {
                "etcd-servers": f"http://127.0.0.1:{ETCD_PORT}",
                "etcd-compaction-interval": 0,
                "bind-address": "0.0.0.0" if self._whole else "127.0.0.1",
                "advertise-address": self.host,
                "secure-port": PORT,
                "cert-dir": self.folder / "certificates",
                "tls-cert-file": self._certificate,
                "tls-private-key-file": self._certificate,
                "service-account-key-file": key,
                "service-account-signing-key-file": key,
                "service-account-issuer": "https://kubernetes.default.svc",
                "token-auth-file": self.folder / "tokens.csv",
                "authorization-mode": "Node,RBAC",
                # It asks for accounts, which a controller makes.
                "disable-admission-plugins": "" if self._whole else "ServiceAccount",
                "service-cluster-ip-range": f"{SERVICES},{SERVICES_IPV6}" if self._dual else SERVICES,
                "allow-privileged": "true",
                "audit-policy-file": self.folder / "audit.yaml",
                "audit-log-path": self.audit,
                **(DUAL_STACK if self._dual else {}),
            },
        )
        log.info("kube-apiserver starts")
        self._until("kube-apiserver", lambda: self.kubectl("get", "namespace", "default") is not None)

    def _start_others(self) -> None:
        """They ask the API as its administrator."""
        kubeconfig = {"kubeconfig": self.kubeconfig}
        alone = {**kubeconfig, "leader-elect": "false", "bind-address": "127.0.0.1", "port": 0}
        if self._dual:
            alone |= DUAL_STACK
        accounts = {"service-account-private-key-file": self.folder / "accounts.key", "root-ca-file": self.authority}
        plugins = {"flex-volume-plugin-dir": self.folder / "plugins"}  # it makes the folder
        prefixes = {"allocate-node-cidrs": "true", "cluster-cidr": f"{PODS},{PODS_IPV6}" if self._dual else PODS}
        options: tuple[dict[str, object], ...] = (alone | accounts | plugins | prefixes, alone)
        log.info("%s start", ", ".join(_WHOLE))
        self._others += [self._run(name, each) for name, each in zip(_WHOLE, options, strict=True)]

    def stop_server(self, number: signal.Signals = signal.SIGKILL) -> None:
        """It ends; killed it says nothing to anybody."""
        _end(self._server, number)
        self._server = None

    def stop_etcd(self) -> None:
        """Without a word."""
        _end(self._etcd, signal.SIGKILL)
        self._etcd = None

    def compact(self) -> None:
        """etcd forgets what was before now."""
        told = self.etcdctl("endpoint", "status", "--write-out=json")
        assert told is not None
        revision = json.loads(told)[0]["Status"]["header"]["revision"]
        ended = self.tried("etcdctl", f"--endpoints=http://127.0.0.1:{ETCD_PORT}", "compact", str(revision))
        assert ended.returncode == 0 or "has been compacted" in ended.stderr, (
            "unless nothing has changed since the last"
        )

    def kubectl(self, *arguments: str, input: str | None = None) -> str | None:
        """What it printed; None when it failed."""
        ended = self.tried("kubectl", "--kubeconfig", str(self.kubeconfig), *arguments, input=input)
        return ended.stdout if ended.returncode == 0 else None

    def etcdctl(self, *arguments: str) -> str | None:
        """What it printed; None when it failed."""
        ended = self.tried("etcdctl", f"--endpoints=http://127.0.0.1:{ETCD_PORT}", *arguments)
        return ended.stdout if ended.returncode == 0 else None

    def tried(self, name: str, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """One of the programs, run to its end."""
        command = self.where.command([BINARIES / name, *arguments])
        environment = os.environ | {"ETCDCTL_API": "3", "HOME": str(self.folder)}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=environment, input=input
        )

    def close(self) -> None:
        """Ends everything and removes its files."""
        for process in self._others:
            _end(process, signal.SIGKILL)
        self.stop_server()
        self.stop_etcd()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, name: str) -> str:
        """The end of a program's log."""
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def _files(self) -> Path:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        (self.folder / "accounts.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        (self.folder / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n")
        (self.folder / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))
        return self.admin("127.0.0.1")

    def admin(self, host: str) -> Path:
        """A file for somebody who asks it at that address, as the cluster's administrator."""
        path = self.folder / f"admin-{host}.kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig(self.authority, {"token": ADMIN}, host)))
        return path

    def _run(self, name: str, options: Mapping[str, object]) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [BINARIES / name, *(f"--{option}={value}" for option, value in options.items())]
        with (self.folder / f"{name}.log").open("ab") as log:
            return self.where.popen(
                command, stdout=log, stderr=log, env=environment(), start_new_session=True, cwd=self.folder
            )

    def _until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not true():
            logs = {path.stem: path.read_text()[-2000:] for path in self.folder.glob("*.log")}
            for name, process in (("etcd", self._etcd), ("kube-apiserver", self._server)):
                if process is not None and process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{logs[name]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited in vain for {what}: {logs}")
            time.sleep(0.1)


def kubeconfig(authority: Path, user: dict[str, str], host: str = "127.0.0.1") -> dict[str, Any]:
    """For one user."""
    cluster = {"server": f"https://{host}:{PORT}", "certificate-authority": str(authority)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
    }


def _end(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is not None:
        process.send_signal(number)
        process.wait(_PATIENCE)  # a server that is asked to end lets its requests have a minute
