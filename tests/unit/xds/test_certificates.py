"""The certificate authority."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from lockgate.xds.certificates import Authority, Identity, node_of_names
from lockgate.xds.errors import CertificateError


def certificate(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate)


def test_a_nodes_certificate_is_verified_as_a_clients_and_names_it() -> None:
    authority = Authority.new()
    store = Store([certificate(authority.identity)])
    verified = PolicyBuilder().store(store).build_client_verifier().verify(certificate(authority.node("rack/7")), [])
    assert verified.subjects is not None
    names = [name.value for name in verified.subjects]
    assert names == ["lockgate://node/rack%2F7"] and node_of_names(names) == "rack/7"


def test_a_servers_certificate_is_verified_by_its_address() -> None:
    authority = Authority.new()
    store = Store([certificate(authority.identity)])
    leaf = certificate(authority.server(["control.example", "127.0.0.1"]))
    for subject in (x509.DNSName("control.example"), x509.IPAddress(ip_address("127.0.0.1"))):
        PolicyBuilder().store(store).build_server_verifier(subject).verify(leaf, [])


def test_the_authority_of_a_folder_is_made_once_and_its_key_is_the_owners(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    first, second = Authority.open(folder), Authority.open(folder)
    assert first.identity == second.identity
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600


def test_validity_is_what_was_asked_for() -> None:
    leaf = certificate(Authority.new().node("n", days=2))
    assert timedelta(days=1, hours=23) < leaf.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=2)


@pytest.mark.parametrize(
    ("names", "node"),
    [
        ([], None),
        (["spiffe://x/node/a"], None),
        (["lockgate://node/a", "lockgate://node/b"], None),
        (["a.example", "lockgate://node/a"], "a"),
    ],
)
def test_a_certificate_is_for_one_node_or_none(names: list[str], node: str | None) -> None:
    assert node_of_names(names) == node


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"needs an id; give the one in its Envoy's bootstrap"):
        Authority.new().node("")
    with pytest.raises(CertificateError, match="needs a host name or an address"):
        Authority.new().server([])
    (tmp_path / "ca.key").write_text("nonsense")
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(CertificateError, match="holds no certificate authority"):
        Authority.open(tmp_path)
