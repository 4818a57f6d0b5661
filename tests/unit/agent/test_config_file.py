"""The file of `agent run --config`."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from lockgate.agent.config_file import read_config
from lockgate.agent.errors import InputError
from lockgate.agent.settings import KubernetesSettings, RemoteSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def remote(**other: object) -> str:
    """The section, with something else in it."""
    section = {
        "address": "0.0.0.0",
        "port": 18000,
        "authority": "/pki/ca.pem",
        "certificate": "/pki/server.pem",
        "key": "/pki/server.key",
        "nodes": ["edge-1", "edge-2"],
    }
    return json.dumps(section | other)


def test_remote_nodes(tmp_path: Path) -> None:
    files = (Path("/pki/ca.pem"), Path("/pki/server.pem"), Path("/pki/server.key"))
    expected = RemoteSettings("0.0.0.0", 18000, *files, ("edge-1", "edge-2"))
    assert read_config(written(tmp_path, f"remote: {remote()}")) == {"remote": expected}
    admin = {"edge-1": "192.0.2.77:15009", "edge-2": "[2001:db8::2]:1"}
    expected = replace(expected, admin={"edge-1": ("192.0.2.77", 15009), "edge-2": ("2001:db8::2", 1)})
    assert read_config(written(tmp_path, f"remote: {remote(admin=admin)}")) == {"remote": expected}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("http_port: 1\nconcurrency: 0\n", {"http_port": 1, "concurrency": 0}),
        ("{http_port: 65535, concurrency: 1024}", {"http_port": 65535, "concurrency": 1024}),
        ("uplinks: [eth0, bond0.7]", {"uplinks": ("eth0", "bond0.7")}),
        ("uplinks: []", {"uplinks": ()}),
        ("node_labels: {role: edge, a/b: ''}", {"node_labels": (("a/b", ""), ("role", "edge"))}),
        ("engines: [unix:///run/a.sock, unix:///run/a.sock]", {"engines": ("unix:///run/a.sock",)}),
        ("unknown_containers: allow", {"unknown_containers": "allow"}),
        ("unknown_pods: allow", {"unknown_pods": "allow"}),
        ("host_routing: true", {"host_routing": True}),
    ],
)
def test_settings(tmp_path: Path, text: str, settings: dict[str, object]) -> None:
    assert read_config(written(tmp_path, text)) == settings


def test_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "worker-1")
    assert read_config(written(tmp_path, "kubernetes: {}")) == {"kubernetes": KubernetesSettings("worker-1")}
    given = KubernetesSettings("w.2", Path("/etc/kubeconfig"), services=False)
    text = "kubernetes: {node: w.2, kubeconfig: /etc/kubeconfig, services: false}"
    assert read_config(written(tmp_path, text)) == {"kubernetes": given}
    text = "kubernetes: {node: w, pod_prefixes: ['10.244.0.0/16', 'fd00::/48'], pod_interfaces: [cali]}"
    found = read_config(written(tmp_path, text))["kubernetes"]
    assert found.pod_prefixes == (ip_network("10.244.0.0/16"), ip_network("fd00::/48"))
    assert found.pod_interfaces == ("cali",)
    monkeypatch.delenv("NODE_NAME")
    assert read_config(written(tmp_path, "kubernetes: {}"))["kubernetes"].node == socket.gethostname().lower()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kubernetes: true", r"kubernetes: write \{\}, or some of kubeconfig, node, services"),
        ("kubernetes: {nod: x}", r"kubernetes: write \{\}, or some of"),
        ("kubernetes: {kubeconfig: config}", "kubernetes.kubeconfig: write the absolute path of a kubeconfig file"),
        ("kubernetes: {node: a/b}", "kubernetes.node: write the node's name as 'kubectl get nodes' shows it"),
        ("kubernetes: {node: 7}", "kubernetes.node: write the node's name"),
        ("kubernetes: {services: 1}", "kubernetes.services: write true or false"),
        ("kubernetes: {pod_prefixes: 10.0.0.0/8}", "kubernetes.pod_prefixes: write a list of prefixes, as in"),
        ("kubernetes: {pod_prefixes: [10.244.0.1/16]}", r"kubernetes.pod_prefixes: .*10.244.0.1/16 has host bits set"),
        ("kubernetes: {pod_prefixes: [0.0.0.0/0]}", "kubernetes.pod_prefixes: .*none is wider than /8"),
        ("kubernetes: {pod_interfaces: [a/b]}", "kubernetes.pod_interfaces: write a list of what their names begin"),
        ("kubernetes: {pod_interfaces: [7]}", "kubernetes.pod_interfaces: write a list of what their names begin"),
    ],
)
def test_a_wrong_kubernetes_section(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_config(written(tmp_path, text))


def test_no_file_is_an_empty_one() -> None:
    assert read_config(None) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "httpPort: 15001",
            "unknown key httpPort; known are concurrency, connections_per_client, dns_min_ttl, dns_port, engines, ",
        ),
        ("http_port: 0", "http_port: write a number from 1 to 65535"),
        ("http_port: 65536", "http_port: write a number from 1 to 65535"),
        ("http_port: '15001'", "http_port: write a number from 1 to 65535"),
        ("http_port: true", "http_port: write a number from 1 to 65535"),
        ("envoy_cgroup: a/b", "envoy_cgroup: write the path of a control group, as in / or /lockgate"),
        ("envoy_cgroup: /a/../b", "envoy_cgroup: write the path of a control group"),
        ("envoy_cgroup: /a/", "envoy_cgroup: write the path of a control group"),
        ("envoy_cgroup: 7", "envoy_cgroup: write the path of a control group"),
        ("envoy_hang: 4", "envoy_hang: write 0, or a number of seconds from 5 to 86400"),
        ("envoy_hang: true", "envoy_hang: write 0, or a number of seconds from 5 to 86400"),
        ("envoy_drain: 1", "envoy_drain: write a number from 2 to 86400"),
        ("connections_per_client: -1", "connections_per_client: write a number from 0 to 1048575"),
        (
            "remote: {}",
            "remote: write address, port, authority, certificate, key, nodes, all of them, maybe admin, and ",
        ),
        (f"remote: {remote(admin=[])}", "remote.admin: write nodes with their HOST:PORT, as in {edge-1: '192.0.2.77:"),
        (f"remote: {remote(admin={'edge-3': '192.0.2.1:1'})}", "remote.admin: write nodes with their HOST:PORT"),
        (f"remote: {remote(admin={'edge-1': '192.0.2.1'})}", "remote.admin: write nodes with their HOST:PORT"),
        (f"remote: {remote(admin={'edge-1': 'a/b:80'})}", "remote.admin: write nodes with their HOST:PORT"),
        (f"remote: {remote(admin={'edge-1': 'a:65536'})}", "remote.admin: write nodes with their HOST:PORT"),
        (f"remote: {remote(more=1)}", "remote: write address, port, "),
        (f"remote: {remote(address='agent.example')}", "remote.address: write the IP address to listen on"),
        (f"remote: {remote(port=0)}", "remote.port: write a number from 1 to 65535"),
        (f"remote: {remote(key='server.key')}", "remote.key: write the absolute path of a PEM file"),
        (f"remote: {remote(nodes=[])}", "remote.nodes: write a list of node ids, as in [edge-1, edge-2]"),
        (f"remote: {remote(nodes=['a b'])}", "remote.nodes: write a list of node ids"),
        (f"remote: {remote(nodes=['a', 'a'])}", "remote.nodes: at most 64, and each once"),
        (f"remote: {remote(nodes=[f'n{number}' for number in range(65)])}", "remote.nodes: at most 64, and each once"),
        ("concurrency: 1.5", "concurrency: write a number from 0 to 1024"),
        ("node_labels: [a]", "node_labels: write keys and texts, as in 'node_labels: {role: edge}'"),
        ("node_labels: {a: 1}", "node_labels: write keys and texts"),
        ("uplinks: eth0", "uplinks: write a list of interfaces, as in 'uplinks: [eth0]'"),
        ("uplinks: [1]", "uplinks: write a list of interfaces, as in 'uplinks: [eth0]'"),
        ("engines: unix:///run/docker.sock", "engines: write a list of sockets, as in 'engines: [unix:///var/run/"),
        ("engines: [/run/docker.sock]", "engines: write a list of sockets"),
        ("host_routing: 1", "host_routing: write true or false"),
        ("unknown_containers: true", "unknown_containers: write drop or allow"),
        ("unknown_pods: keep", "unknown_pods: write drop or allow"),
        ("engines: ['tcp://127.0.0.1:2375']", "engines: write a list of sockets"),
        ("- http_port", "write keys and values"),
        ("http_port: 1\nhttp_port: 2", "not YAML: http_port is written twice (line 2)"),
        ("remote: {port: 1, port: 2}", "not YAML: port is written twice"),
        ("http_port: 15002", "http_port and tls_port are both 15002; give each its own"),
        ("metrics_port: 15053", "dns_port and metrics_port are both 15053; give each its own"),
        ("[" * 5000, "nested too deep; write keys and values"),
        ("http_port: [", "not YAML: "),
        ("\x00", "not YAML: "),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as refused:
        read_config(path)
    assert str(refused.value).startswith(f"--config {path}: {reason}")
    assert "\n" not in str(refused.value)
