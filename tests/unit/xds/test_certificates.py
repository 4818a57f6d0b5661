"""The certificate authority."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from lockgate.xds.errors import CertificateError
from lockgate.xds.serve.certificates import Authority, Identity, node_of_names


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


def test_files_are_made_once_and_keys_are_the_owners(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    files = folder / "ca.pem", folder / "ca.key"
    made = Authority.new().identity
    made.write(*files)
    assert Authority.open(folder).identity == made
    assert stat.S_IMODE(files[1].stat().st_mode) == 0o600
    for missing in files:  # neither is written where one of them is
        missing.unlink()
        with pytest.raises(CertificateError, match="is there already and stays as it is"):
            Authority.new().identity.write(*files)
        assert not missing.exists()
        other = Authority.new().identity
        other.write(*files, replace=True)
        assert Authority.open(folder).identity == other
        assert stat.S_IMODE(files[1].stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]


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
    for host in ("", "ü.example", "a b", "a..b", "https://a", "a" * 254):
        with pytest.raises(CertificateError, match="is no address and no DNS name; write other letters as xn--"):
            Authority.new().server(["127.0.0.1", host])
    with pytest.raises(CertificateError, match="'lockgate xds certificate authority' makes one"):
        Authority.open(tmp_path)
    (tmp_path / "ca.key").write_text("nonsense")
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(CertificateError, match="holds no certificate authority"):
        Authority.open(tmp_path)
