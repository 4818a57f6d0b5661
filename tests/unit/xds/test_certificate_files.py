"""The certificate for remote nodes, from files that are replaced while it is in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lockgate.xds.errors import CertificateError
from lockgate.xds.serve.certificate_files import CertificateFiles
from lockgate.xds.serve.certificates import Authority


class Files:
    """An authority's file and a server's pair."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.new()
        self.ca, self.pem, self.key = (folder / name for name in ("ca.pem", "server.pem", "server.key"))
        self.ca.write_bytes(self.authority.identity.certificate)
        self.renew()

    def renew(self, days: int = 3) -> None:
        self.authority.server(["127.0.0.1"], days).write(self.pem, self.key, replace=True)

    def other_key(self) -> None:
        self.authority.server(["127.0.0.1"]).write(self.pem.with_name("other.pem"), self.key, replace=True)

    def other_authority(self) -> None:
        self.ca.write_bytes(Authority.new().identity.certificate)

    def readable_key(self) -> None:
        self.key.chmod(0o644)

    def locked_key(self) -> None:
        self.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nnonsense\n-----END ENCRYPTED PRIVATE KEY-----\n")

    def expired(self) -> None:
        self.renew(days=0)

    def gone(self) -> None:
        self.pem.unlink()

    def nonsense(self) -> None:
        self.pem.write_text("nonsense")

    def open(self) -> CertificateFiles:
        return CertificateFiles(self.ca, self.pem, self.key)


WRONG: dict[Callable[[Files], None], str] = {
    Files.other_key: "is not that of the certificate",
    Files.other_authority: "is not signed by",
    Files.readable_key: "can be read by everybody; run: chmod 600",
    Files.locked_key: "holds no PEM key without a password",
    Files.expired: "was valid until",
    Files.gone: "No such file or directory",
    Files.nonsense: "holds no PEM certificate",
}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_what_is_wrong_at_the_start_is_one_sentence(files: Files, spoil: Callable[[Files], None]) -> None:
    spoil(files)
    with pytest.raises(CertificateError, match=WRONG[spoil]):
        files.open().read()


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_what_is_wrong_later_is_told_and_the_one_before_stays(files: Files, spoil: Callable[[Files], None]) -> None:
    read = files.open()
    before = read.read()
    spoil(files)
    assert read.renewed() is None
    assert WRONG[spoil] in read.problem and read.problem.endswith("the certificate before stays in use")
    assert read.used == before
    files.ca.write_bytes(files.authority.identity.certificate)
    files.renew()
    now = read.renewed()
    assert now is not None and now == read.used != before and read.problem == ""


def test_a_good_pair_is_told_once(files: Files) -> None:
    read = files.open()
    first = read.read()
    assert read.renewed() is None
    files.renew()
    second = read.renewed()
    assert second is not None and second != first
    assert read.renewed() is None


def test_the_same_pair_written_again_is_no_news(files: Files) -> None:
    read = files.open()
    first = read.read()
    files.pem.write_bytes(files.pem.read_bytes())
    assert read.renewed() is None and read.used == first and not read.problem
