"""The bootstrap that Envoy starts with."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from lockgate.envoy.binary import find_binary
from lockgate.envoy.bootstrap import BootstrapSettings, bootstrap
from lockgate.envoy.errors import BootstrapError
from lockgate.envoy.http_listener import HttpListener, deny_all
from lockgate.envoy.identity_filter import Ipcache
from lockgate.envoy.messages import boot, composite, hcm, protobuf
from lockgate.envoy.module_file import find_module

IPCACHE = Ipcache(Path("/sys/fs/bpf/lockgate/maps/ipcache"), 7, 8)
SETTINGS = BootstrapSettings(run_dir=Path("/run/lockgate"), node_id="node-1", ipcache=IPCACHE)


def parsed(settings: BootstrapSettings = SETTINGS) -> boot.Bootstrap:
    return boot.Bootstrap.parse(bootstrap(settings))


def managers(message: boot.Bootstrap) -> list[hcm.HttpConnectionManager]:
    assert message.static_resources is not None
    found = []
    for listener in message.static_resources.listeners:
        config = listener.filter_chains[0].filters[0].typed_config
        assert config is not None
        manager = config.unpack()
        assert isinstance(manager, hcm.HttpConnectionManager)
        found.append(manager)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        dataclasses.replace(SETTINGS, http=HttpListener(upgrades=(), port=1)),
        dataclasses.replace(SETTINGS, http=HttpListener(connections_per_client=3), max_heap=2_000_000_000),
        dataclasses.replace(SETTINGS, http=HttpListener(upgrades=("websocket", "CONNECT"), first_policy_timeout=0.25)),
    ],
)
def test_envoy_takes_it(tmp_path: Path, settings: BootstrapSettings) -> None:
    file = tmp_path / "bootstrap.pb"
    file.write_bytes(bootstrap(dataclasses.replace(settings, run_dir=tmp_path)))
    command = [str(find_binary().path), "--mode", "validate", "-c", str(file), "--log-level", "warning"]
    environment = {**os.environ, **find_module(find_binary()).environment}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert answer.returncode == 0, answer.stderr
    # Nothing deprecated, unfinished or ignored.
    assert "[warning]" not in answer.stderr


def test_equal_settings_give_equal_bytes() -> None:
    assert bootstrap(SETTINGS) == bootstrap(dataclasses.replace(SETTINGS, node_id="node-1"))


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(SETTINGS, node_id="node-2"),
        dataclasses.replace(SETTINGS, run_dir=Path("/run/other")),
        dataclasses.replace(SETTINGS, http=HttpListener(port=15002)),
        dataclasses.replace(SETTINGS, http=HttpListener(mark=1)),
    ],
)
def test_other_settings_give_other_bytes(changed: BootstrapSettings) -> None:
    assert bootstrap(changed) != bootstrap(SETTINGS)


def test_nothing_listens_beyond_this_machine() -> None:
    message = parsed()
    assert message.static_resources is not None
    (listener,) = message.static_resources.listeners
    addresses = [listener.address, *(each.address for each in listener.additional_addresses)]
    assert [address.socket_address.address for address in addresses if address and address.socket_address] == [
        "127.0.0.1",
        "::1",
    ]
    assert message.admin is not None and message.admin.address is not None
    pipe = message.admin.address.pipe
    assert pipe is not None
    assert (pipe.path, pipe.mode) == ("/run/lockgate/admin.sock", 0o600)


def test_every_slot_waits_for_the_policy() -> None:
    for manager in managers(parsed(dataclasses.replace(SETTINGS, http=HttpListener(first_policy_timeout=15.0)))):
        assert [entry.name for entry in manager.http_filters] == [
            "lockgate.http.egress",
            "lockgate.http.egress.headers",
            "lockgate.http.ingress",
            "lockgate.http.ingress.headers",
            "envoy.filters.http.router",
        ]
        for slot in manager.http_filters[:4]:
            source = slot.config_discovery
            assert source is not None and source.default_config is not None and source.config_source is not None
            assert not source.apply_default_config_without_warming
            assert source.config_source.initial_fetch_timeout == timedelta(seconds=15)
            assert source.config_source.ads is not None


def test_slots_are_named_by_the_settings() -> None:
    http = HttpListener(egress_slot="a", ingress_slot="b")
    for manager in managers(parsed(dataclasses.replace(SETTINGS, http=http))):
        assert [entry.name for entry in manager.http_filters[:4]] == ["a", "a.headers", "b", "b.headers"]


def test_without_a_policy_a_slot_denies_and_changes_nothing() -> None:
    for manager in managers(parsed()):
        defaults = [slot.config_discovery.default_config for slot in manager.http_filters[:4] if slot.config_discovery]
        assert defaults[0] == defaults[2] == protobuf.Any.pack(deny_all())
        assert defaults[1] == defaults[3] == protobuf.Any.pack(composite.Composite())


def test_no_route_has_a_timeout() -> None:
    for manager in managers(parsed()):
        assert manager.stream_idle_timeout == manager.request_timeout == timedelta(0)
        assert manager.route_config is not None
        refusing, *forwarding = manager.route_config.virtual_hosts[0].routes
        assert refusing.route is None and refusing.direct_response is not None
        for route in forwarding:
            assert route.route is not None
            assert route.route.timeout == route.route.idle_timeout == timedelta(0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (dataclasses.replace(SETTINGS, run_dir=Path("run")), "is not absolute"),
        (dataclasses.replace(SETTINGS, run_dir=Path("/" + "x" * 100)), "more than 107 bytes"),
        (dataclasses.replace(SETTINGS, node_id=""), "has no id"),
        (dataclasses.replace(SETTINGS, http=HttpListener(port=0)), "port 0"),
        (dataclasses.replace(SETTINGS, http=HttpListener(port=65536)), "port 65536"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: BootstrapSettings, reason: str) -> None:
    with pytest.raises(BootstrapError, match=reason):
        bootstrap(settings)
