"""The bootstrap that Envoy starts with."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import BootstrapSettings, bootstrap, connections_of_one, connections_with
from lockgate.envoy.config.end import SHARDS
from lockgate.envoy.config.http_listener import HttpListener, http_routes
from lockgate.envoy.config.http_routes import ROUTES
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.messages import boot, composite, core, hcm, network_input, protobuf, route, xds_matcher
from lockgate.envoy.config.policy_slot import deny_all
from lockgate.envoy.errors import BootstrapError
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.tests.unit.xds.matcher_messages import Seen, evaluate
from lockgate.xds import end_text

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


def policies(settings: BootstrapSettings = SETTINGS) -> dict[str, xds_matcher.Matcher]:
    """By the name of its filter, how each direction's policy is chosen."""
    (manager,) = managers(parsed(settings))
    *found, router = manager.http_filters
    assert router.name == "envoy.filters.http.router"
    chosen = {}
    for each in found:
        assert each.typed_config is not None
        filter_ = each.typed_config.unpack()
        assert isinstance(filter_, composite.Composite) and filter_.matcher is not None
        chosen[each.name] = filter_.matcher
    return chosen


ENDS = ("lockgate.source", "lockgate.destination")  # that the client's and the server's policy go by


def run(policy: xds_matcher.Matcher, **ends: str) -> composite.ExecuteFilterAction:
    """What is run for a connection with this source or destination."""
    seen = Seen("", "", 0, state={f"lockgate.{key}": value for key, value in ends.items()})
    found = evaluate(policy, seen)
    assert found is not None and found.typed_config is not None
    action = found.typed_config.unpack()
    assert isinstance(action, composite.ExecuteFilterAction)
    return action


def test_each_direction_is_judged_by_the_shard_of_its_own_end() -> None:
    found = policies(dataclasses.replace(SETTINGS, http=HttpListener(egress_slot="a", ingress_slot="b")))
    assert list(found) == ["a", "b"], "the client's policy first"
    for (name, policy), key in zip(found.items(), ENDS, strict=True):
        tree = policy.matcher_tree
        assert tree is not None and tree.input is not None and tree.input.typed_config is not None
        assert tree.input.typed_config.unpack() == network_input.FilterStateInput(key=key)
        for identity in (*range(2 * SHARDS), 70_103, 2**32 - 1):
            for here in (True, False):
                dynamic = run(policy, **{key.removeprefix("lockgate."): end_text(identity, here=here)}).dynamic_config
                assert dynamic is not None and dynamic.name == f"{name}.{identity % SHARDS}"


def test_every_shard_waits_for_its_policy_and_denies_without() -> None:
    for end, policy in zip(("source", "destination"), policies().values(), strict=True):
        for number in range(SHARDS):
            dynamic = run(policy, **{end: end_text(number, here=True)}).dynamic_config
            assert dynamic is not None and dynamic.config_discovery is not None
            source = dynamic.config_discovery
            assert source.default_config == protobuf.Any.pack(deny_all())
            assert source.config_source is not None and source.config_source.ads is not None
            assert not source.apply_default_config_without_warming
            assert source.config_source.initial_fetch_timeout == timedelta(seconds=15)


def test_who_is_unknown_is_denied() -> None:
    denied = core.TypedExtensionConfig(name="deny", typed_config=protobuf.Any.pack(deny_all("node:unknown-identity")))
    for end, policy in zip(("source", "destination"), policies().values(), strict=True):
        for state in ({}, {end: ""}, {end: "nobody"}, {end: "7"}, {end: f"{SHARDS}:{SHARDS}:in"}, {end: ":7:in"}):
            assert run(policy, **state) == composite.ExecuteFilterAction(typed_config=denied)


def test_no_route_has_a_timeout() -> None:
    for manager in managers(parsed()):
        assert manager.stream_idle_timeout == manager.request_timeout == timedelta(0)
    told = route.RouteConfiguration.parse(http_routes(SETTINGS.http, [70001], [70002]))
    listed = told.virtual_hosts[0].routes
    first, forwarding = listed[:4], listed[4:]
    for refusing in first:
        assert refusing.route is None and refusing.direct_response is not None
    for found in forwarding:
        assert found.route is not None
        assert found.route.timeout == found.route.idle_timeout == timedelta(0)


def test_routes_come_by_ads_and_the_listener_waits_for_them_as_for_policies() -> None:
    for manager in managers(parsed()):
        assert manager.route_config is None and manager.rds is not None
        assert manager.rds.route_config_name == ROUTES
        source = manager.rds.config_source
        assert source is not None and source.ads is not None
        assert source.initial_fetch_timeout == timedelta(seconds=15)
    assert route.RouteConfiguration.parse(http_routes(SETTINGS.http, (), ())).name == ROUTES


def test_a_filter_is_left_out_for_its_own_end_only() -> None:
    """The names of filters, the filter state and the identities fit together."""
    told = route.RouteConfiguration.parse(http_routes(SETTINGS.http, [70001], [70002]))
    found = {
        (name, each.key, each.string_match.safe_regex.regex)
        for listed in told.virtual_hosts[0].routes
        for name in listed.typed_per_filter_config
        if listed.match is not None
        for each in listed.match.filter_state
        if each.string_match is not None and each.string_match.safe_regex is not None
    }
    assert found == {
        ("lockgate.http.egress", "lockgate.source", "[0-9]+:(?:(?:70001):in|[0-9]+:out)"),
        ("lockgate.http.ingress", "lockgate.destination", "[0-9]+:(?:(?:70002):in|[0-9]+:out)"),
    }
    assert {name for name, _, _ in found} == set(policies())


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


@pytest.mark.parametrize(
    ("wanted", "descriptors", "of_one", "of_all"),
    [
        (10_000, -1, 10_000, 100_000),
        (10_000, 1 << 20, 10_000, 100_000),
        (10_000, 20_000, 1645, 6581),
        (100, 20_000, 100, 6581),
        (0, 20_000, 0, 6581),
        (10_000, 100, 1, 1),
    ],
)
def test_no_client_may_have_all_connections(wanted: int, descriptors: int, of_one: int, of_all: int) -> None:
    assert (connections_of_one(wanted, connections_with(descriptors)), connections_with(descriptors)) == (
        of_one,
        of_all,
    )
