"""What a remote Envoy starts with; that a real one works by it is tested in e2e."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lockgate.envoy.config.remote_bootstrap import BOOTSTRAP_FILE, TABLE_SLOTS, RemoteSettings, remote_bootstrap
from lockgate.envoy.errors import BootstrapError
from lockgate.xds import TABLES

SETTINGS = RemoteSettings(
    *("edge-1", "agent.example", 18000),
    *(Path("/pki/ca.pem"), Path("/pki/edge-1.pem"), Path("/pki/edge-1.key"), Path("/run/edge")),
)


def test_no_secret_is_in_the_files_and_what_is_replaced_is_seen() -> None:
    files = remote_bootstrap(SETTINGS)
    assert all("PRIVATE" not in text for text in files.values())
    secrets = [json.loads(text)["resources"][0] for name, text in files.items() if name != BOOTSTRAP_FILE]
    watched = [next(each for each in secret.values() if isinstance(each, dict)) for secret in secrets]
    assert [each["watched_directory"] for each in watched] == [{"path": "/pki"}] * 2
    (names,) = (each["match_typed_subject_alt_names"] for each in watched if "trusted_ca" in each)
    assert names == [{"san_type": "DNS", "matcher": {"exact": "agent.example"}}]


def test_an_address_is_verified_as_one_and_looked_up_nowhere() -> None:
    files = remote_bootstrap(replace(SETTINGS, server="2001:db8::1"))
    assert any('"IP_ADDRESS"' in text for text in files.values())
    assert "STRICT_DNS" in remote_bootstrap(SETTINGS)[BOOTSTRAP_FILE]
    assert "STRICT_DNS" not in files[BOOTSTRAP_FILE]


def test_the_tables_come_before_the_policies() -> None:
    text = remote_bootstrap(SETTINGS)[BOOTSTRAP_FILE]
    assert set(TABLE_SLOTS) == set(TABLES.values())
    assert max(text.index(f'"{slot}"') for slot in TABLE_SLOTS) < text.index('"lockgate.http.egress"')


def test_the_admin_interface_is_reached_by_nobody_unless_a_port_is_given() -> None:
    assert "lockgate.admin" not in remote_bootstrap(SETTINGS)[BOOTSTRAP_FILE]
    found = json.loads(remote_bootstrap(replace(SETTINGS, admin_port=15009))[BOOTSTRAP_FILE])["staticResources"]
    (asking,) = [each for each in found["listeners"] if each["name"] == "lockgate.admin"]
    (chain,) = asking["filterChains"]
    assert chain["transportSocket"]["typedConfig"]["requireClientCertificate"] is True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (replace(SETTINGS, key=Path("edge-1.key")), "edge-1.key is not absolute"),
        (replace(SETTINGS, folder=Path("/" + "x" * 110)), "the path is too long for a socket in it"),
        (replace(SETTINGS, node_id=""), "the node has no id"),
        (replace(SETTINGS, node_id="a b"), "'a b' is not a node id; use letters, digits, "),
        (replace(SETTINGS, server=" "), "' ' is no host; give the agent's address or DNS name"),
        (replace(SETTINGS, server="http://192.0.2.1"), "'http://192.0.2.1' is no host"),
        (replace(SETTINGS, port=0), "0 is no port"),
        (replace(SETTINGS, server_port=65536), "65536 is no port"),
        (replace(SETTINGS, admin_port=65536), "65536 is no port"),
        (replace(SETTINGS, admin_port=15001), "15001 cannot be both ports of Envoy"),
    ],
)
def test_what_cannot_be(settings: RemoteSettings, words: str) -> None:
    with pytest.raises(BootstrapError, match=words):
        remote_bootstrap(settings)
