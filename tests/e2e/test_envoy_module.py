"""The real Envoy loads the dynamic module: every hook is found, and it takes its word about configurations."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from lockgate.envoy.config.identity_filter import Ipcache, identity_filter
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import NAME, find_module
from lockgate.redirect import layout
from lockgate.tests.e2e.pinned_ipcache import pinned_ipcache

LISTENER = "type.googleapis.com/envoy.extensions.filters.listener.dynamic_modules.v3.DynamicModuleListenerFilter"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
NETWORK = "type.googleapis.com/envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"


def run(folder: Path, listener: dict[str, object], *mode: str) -> subprocess.CompletedProcess[str]:
    """An Envoy with this one listener that is expected to end by itself."""
    config = folder / "envoy.json"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 15001}}
    config.write_text(json.dumps({"static_resources": {"listeners": [{"name": "it", "address": address, **listener}]}}))
    binary = find_binary()
    return subprocess.run(
        [binary.path, *mode, "-c", config, "--log-level", "warning", "--disable-hot-restart"],
        env={**os.environ, **find_module(binary).environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def validate(folder: Path, listener: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Only checks the configuration."""
    return run(folder, listener, "--mode", "validate")


def the_module(type_url: str, name: str, config: str) -> dict[str, object]:
    value = {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config}
    return {
        "name": "module",
        "typed_config": {
            "@type": type_url,
            "dynamic_module_config": {"name": NAME},
            "filter_name": name,
            "filter_config": value,
        },
    }


@pytest.mark.parametrize("kind", ["listener", "network"])
def test_a_filter_that_the_module_does_not_have_is_rejected_and_the_log_says_so(tmp_path: Path, kind: str) -> None:
    chain: dict[str, object] = {"filters": []}
    listener: dict[str, object] = {"filter_chains": [chain]}
    if kind == "listener":
        listener["listener_filters"] = [the_module(LISTENER, "nobody", "")]
    else:
        proxy = {"@type": TCP_PROXY, "stat_prefix": "it", "cluster": "none"}
        chain["filters"] = [the_module(NETWORK, "nobody", ""), {"name": "tcp", "typed_config": proxy}]
    checked = validate(tmp_path, listener)
    assert checked.returncode != 0
    assert f'lockgate: {kind} filter nobody: there is no {kind} filter called "nobody"' in checked.stderr
    assert "ABI" not in checked.stderr, "a warning about the ABI version"


def test_envoy_runs_without_the_module_being_used(tmp_path: Path) -> None:
    checked = validate(tmp_path, {"filter_chains": [{"filters": []}]})
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("", "is not 'PATH ID GENERATION SHARDS', the ipcache's pin, its map id, that of its generation and how many"),
        ("maps/ipcache 7 8 64", "is not 'PATH ID GENERATION SHARDS'"),
        ("/sys/fs/bpf/ipcache seven 8 64", "is not 'PATH ID GENERATION SHARDS'"),
        ("/sys/fs/bpf/ipcache 7 8", "is not 'PATH ID GENERATION SHARDS'"),
        ("/sys/fs/bpf/ipcache 7 8 0", "is not 'PATH ID GENERATION SHARDS'"),
        ("/sys/fs/bpf/ipcache 7 8 -1", "is not 'PATH ID GENERATION SHARDS'"),
    ],
)
def test_a_configuration_that_cannot_be_is_rejected_before_any_map_is_looked_for(
    tmp_path: Path, config: str, why: str
) -> None:
    listener = {"listener_filters": [the_module(LISTENER, "identity", config)], "filter_chains": [{"filters": []}]}
    checked = validate(tmp_path, listener)
    assert checked.returncode != 0 and why in checked.stderr
    good = {**listener, "listener_filters": [identity_filter(Ipcache(Path("/nowhere/ipcache"), 7, 8)).to_dict()]}
    assert validate(tmp_path, good).returncode == 0


def test_an_envoy_does_not_start_with_another_map_than_the_data_path_uses(tmp_path: Path) -> None:
    """It would go by addresses that nobody keeps up."""
    with pinned_ipcache({}) as pinned:
        at, number, generation = pinned.envoy.pin, pinned.envoy.map_id, pinned.envoy.generation_id
        beside = at.with_name(layout.GENERATION_NAME)
        for ipcache, why in (
            (Ipcache(at, number + 1, generation), f"{at} is map {number}, not {number + 1}"),
            (Ipcache(at, number, number), f"{beside} is map {generation}, not {number}"),
            (Ipcache(at.with_name("gone"), number, 8), f"{at.with_name('gone')}: No such file or directory"),
            (Ipcache(Path("/dev/null"), number, 8), "/dev/null: Permission denied"),
        ):
            ended = run(
                tmp_path, {"listener_filters": [identity_filter(ipcache).to_dict()], "filter_chains": [{"filters": []}]}
            )
            assert ended.returncode != 0 and f"lockgate: listener filter identity: {why}" in ended.stderr, ended.stderr
