"""The file of `agent run --config`."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.agent.config_file import read_config
from lockgate.agent.errors import InputError


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("http_port: 1\nconcurrency: 0\n", {"http_port": 1, "concurrency": 0}),
        ("{http_port: 65535, concurrency: 1024}", {"http_port": 65535, "concurrency": 1024}),
        ("uplinks: [eth0, bond0.7]", {"uplinks": ("eth0", "bond0.7")}),
        ("uplinks: []", {"uplinks": ()}),
        ("engines: [unix:///run/a.sock, unix:///run/a.sock]", {"engines": ("unix:///run/a.sock",)}),
    ],
)
def test_settings(tmp_path: Path, text: str, settings: dict[str, object]) -> None:
    assert read_config(written(tmp_path, text)) == settings


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
        ("envoy_drain: 1", "envoy_drain: write a number from 2 to 86400"),
        ("connections_per_client: -1", "connections_per_client: write a number from 0 to 1048575"),
        ("concurrency: 1.5", "concurrency: write a number from 0 to 1024"),
        ("uplinks: eth0", "uplinks: write a list of interfaces, as in 'uplinks: [eth0]'"),
        ("uplinks: [1]", "uplinks: write a list of interfaces, as in 'uplinks: [eth0]'"),
        ("engines: unix:///run/docker.sock", "engines: write a list of sockets, as in 'engines: [unix:///var/run/"),
        ("engines: [/run/docker.sock]", "engines: write a list of sockets"),
        ("engines: ['tcp://127.0.0.1:2375']", "engines: write a list of sockets"),
        ("- http_port", "write keys and values"),
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
