"""Where a cluster's API is and how to be let in: from a pod's service account, or from a kubeconfig file.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import KubernetesError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HINT = "write 'kubernetes: {kubeconfig: /PATH}' where the agent is no pod"


@dataclass(frozen=True, slots=True)
class Access:
    """One way in. `token` is asked for each time: a service account's changes every hour."""

    server: str  # https://HOST:PORT
    tls: ssl.SSLContext | bool
    token: Callable[[], str]
    name: str = ""  # whom the certificate is for, when that is not the server's host


def open_access(kubeconfig: Path | None, environment: Mapping[str, str] = os.environ) -> Access:
    """Reads all files anew, for certificates change. Raises KubernetesError: what is missing or cannot be used."""
    return _of_pod(environment) if kubeconfig is None else _of_file(kubeconfig)


def _of_pod(environment: Mapping[str, str]) -> Access:
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubernetesError(f"kubernetes: this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set); {_HINT}")
    authority, token = ACCOUNT / "ca.crt", ACCOUNT / "token"
    where = "the pod's service account"
    context = _context(where, _read(where, authority).decode())
    bracketed = f"[{host}]" if ":" in host else host
    return Access(f"https://{bracketed}:{port}", context, lambda: _read(where, token).decode().strip())


def _of_file(path: Path) -> Access:
    where = f"kubeconfig {path}"
    try:
        config = yaml.safe_load(_read(where, path))
        context = _named(config, "contexts", config["current-context"], "context")
        cluster = _named(config, "clusters", context["cluster"], "cluster")
        user = _named(config, "users", context.get("user"), "user") if context.get("user") else {}
        server = str(cluster["server"]).rstrip("/")
    except yaml.YAMLError as error:
        raise KubernetesError(f"kubernetes: {where}: not YAML: {str(error).splitlines()[0]}") from None
    except (KeyError, TypeError, LookupError) as error:
        raise KubernetesError(
            f"kubernetes: {where}: {error.args[0] if error.args else error} is missing; 'kubectl config view' shows "
            "what is there"
        ) from None
    for key in ("exec", "auth-provider", "username"):
        if user.get(key):
            raise KubernetesError(
                f"kubernetes: {where}: the user has '{key}', which is not supported; give it a token, a tokenFile or a "
                "client certificate"
            )
    if cluster.get("proxy-url"):
        raise KubernetesError(f"kubernetes: {where}: the cluster has a proxy-url, which is not supported")
    if not server.startswith(("https://", "http://")):
        raise KubernetesError(f"kubernetes: {where}: the server '{server}' is no URL; write https://HOST:PORT")
    tls: ssl.SSLContext | bool = True
    if server.startswith("https://"):
        authority = _data(where, path, cluster, "certificate-authority")
        tls = _context(where, authority.decode() if authority else None)
        if cluster.get("insecure-skip-tls-verify"):
            raise KubernetesError(
                f"kubernetes: {where}: insecure-skip-tls-verify would let anybody write this node's policies; give the "
                "cluster's certificate-authority"
            )
        _show_certificate(
            where, tls, _data(where, path, user, "client-certificate"), _data(where, path, user, "client-key")
        )
    return Access(server, tls, _token(where, path, user), str(cluster.get("tls-server-name") or ""))


def _named(config: Any, holder: str, name: Any, key: str) -> dict[str, Any]:
    for each in config[holder]:
        if each["name"] == name:
            found: dict[str, Any] = each[key]
            return found
    raise LookupError(f"{key} '{name}'")


def _token(where: str, path: Path, user: Mapping[str, Any]) -> Callable[[], str]:
    if user.get("tokenFile"):
        file = path.parent / str(user["tokenFile"])
        return lambda: _read(where, file).decode().strip()
    text = str(user.get("token") or "")
    return lambda: text


def _data(where: str, path: Path, holder: Mapping[str, Any], name: str) -> bytes:
    """What is written under `name`-data, or stands in the file `name` (relative to the kubeconfig)."""
    if holder.get(f"{name}-data"):
        try:
            return base64.b64decode(str(holder[f"{name}-data"]), validate=True)
        except (binascii.Error, ValueError):
            raise KubernetesError(f"kubernetes: {where}: {name}-data is not base64") from None
    return _read(where, path.parent / str(holder[name])) if holder.get(name) else b""


def _read(where: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KubernetesError(f"kubernetes: {where}: {file}: {error.strerror}") from None


def _context(where: str, authority: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise KubernetesError(f"kubernetes: {where}: the certificate authority cannot be used: {error}") from None


def _show_certificate(where: str, context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """The library takes a certificate from files only, and none of these may be left on a disk."""
    if not certificate:
        return
    descriptor = os.memfd_create("lockgate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise KubernetesError(f"kubernetes: {where}: the client certificate cannot be used: {error}") from None
    finally:
        with suppress(OSError):
            os.close(descriptor)
