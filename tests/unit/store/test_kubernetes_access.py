"""Ways into a cluster: what files and variables say, and what is wrong with them in one sentence."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml
from lockgate.store.errors import KubernetesError
from lockgate.store.kubernetes import access
from lockgate.store.kubernetes.access import open_access
from lockgate.tests.kubernetes_certificates import certificates


def kubeconfig(folder: Path, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    authority, _ = certificates(folder)
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {"name": "other", "cluster": {}},
            {
                "name": "c",
                "cluster": {"server": "https://10.0.0.1:6443/", "certificate-authority": authority.name}
                | (cluster or {}),
            },
        ],
        "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_kubeconfig(tmp_path: Path) -> None:
    found = open_access(kubeconfig(tmp_path, cluster={"tls-server-name": "api"}))
    assert (found.server, found.token(), found.name) == ("https://10.0.0.1:6443", "t", "api")
    assert isinstance(found.tls, ssl.SSLContext) and found.tls.verify_mode is ssl.CERT_REQUIRED


def test_a_token_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    found = open_access(kubeconfig(tmp_path, user={"tokenFile": "token"}))
    for text in ("one", "two"):
        (tmp_path / "token").write_text(f"{text}\n")
        assert found.token() == text


def test_a_client_certificate_in_files_and_in_place(tmp_path: Path) -> None:
    _, pair = certificates(tmp_path)
    files = {"client-certificate": pair.name, "client-key": pair.name}
    assert open_access(kubeconfig(tmp_path, user=files)).token() == ""
    _, pair = certificates(tmp_path)
    text = base64.b64encode(pair.read_bytes()).decode()
    assert open_access(kubeconfig(tmp_path, user={"client-certificate-data": text, "client-key-data": text}))


def test_a_pods_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, _ = certificates(tmp_path)
    monkeypatch.setattr(access, "ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("mine\n")
    found = open_access(None, {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"})
    assert (found.server, found.token()) == ("https://[fd00::1]:6443", "mine")
    authority.unlink()
    with pytest.raises(KubernetesError, match=r"the pod's service account: .*ca\.crt: No such file or directory"):
        open_access(None, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})


def test_outside_of_a_cluster() -> None:
    with pytest.raises(
        KubernetesError, match=r"this is no pod of a cluster .* write 'kubernetes: {kubeconfig: /PATH}'"
    ):
        open_access(None, {})


@pytest.mark.parametrize(
    ("cluster", "user", "reason"),
    [
        ({"server": ""}, None, "the server '' is no URL"),
        ({"proxy-url": "http://p"}, None, "the cluster has a proxy-url"),
        (
            {"insecure-skip-tls-verify": True},
            None,
            "insecure-skip-tls-verify would let anybody write this node's policies",
        ),
        ({"certificate-authority": "nothing"}, None, "nothing: No such file or directory"),
        ({"certificate-authority-data": "?"}, None, "certificate-authority-data is not base64"),
        ({"certificate-authority-data": "eA=="}, None, "the certificate authority cannot be used"),
        ({}, {"exec": {"command": "aws"}}, "the user has 'exec', which is not supported; give it a token"),
        ({}, {"client-certificate-data": "eA==", "client-key-data": "eA=="}, "the client certificate cannot be used"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, cluster: Any, user: Any, reason: str) -> None:
    path = kubeconfig(tmp_path, cluster=cluster, user=user)
    with pytest.raises(KubernetesError, match=f"kubernetes: kubeconfig {path}: .*{reason}"):
        open_access(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not YAML"),
        ("[]", "is missing"),
        ("{current-context: x, contexts: []}", "context 'x' is missing"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: []}", "cluster 'c' is missing"),
    ],
)
def test_what_is_no_kubeconfig(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubernetesError, match=reason):
        open_access(path)
