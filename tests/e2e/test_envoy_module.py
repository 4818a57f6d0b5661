"""The real Envoy loads the dynamic module: every hook is found, and it takes its word about configurations."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from lockgate.envoy.binary import find_binary
from lockgate.envoy.module_file import NAME, SEARCH_PATH, find_module

LISTENER = "type.googleapis.com/envoy.extensions.filters.listener.dynamic_modules.v3.DynamicModuleListenerFilter"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
NETWORK = "type.googleapis.com/envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"


def validate(folder: Path, listener: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """`envoy --mode validate` of a bootstrap with this one listener."""
    config = folder / "envoy.json"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 15001}}
    config.write_text(json.dumps({"static_resources": {"listeners": [{"name": "it", "address": address, **listener}]}}))
    binary = find_binary()
    return subprocess.run(
        [binary.path, "--mode", "validate", "-c", config, "--log-level", "warning"],
        env={**os.environ, SEARCH_PATH: str(find_module(binary).path.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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
