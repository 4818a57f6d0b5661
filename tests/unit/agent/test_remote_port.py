"""The certificate that remote nodes are shown, as its files are replaced."""

from __future__ import annotations

from pathlib import Path

from lockgate.agent.remote.port import remote_port
from lockgate.agent.settings import RemoteSettings
from lockgate.xds.serve.certificates import Authority


def test_whoever_looks_first_the_port_is_told_of_new_files(tmp_path: Path) -> None:
    authority = Authority.new()
    paths = (tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key")
    authority.identity.write(paths[0], tmp_path / "ca.key")
    authority.server(["127.0.0.1"]).write(paths[1], paths[2])
    served, files = remote_port(RemoteSettings("127.0.0.1", 0, *paths, ("a",)), "n")
    assert served is not None and files is not None
    served.renewed()
    assert served.renewed() is None
    new = authority.server(["127.0.0.1"])
    new.write(paths[1], paths[2], replace=True)
    assert files.renewed() is not None, "as `lockgate status` looks"
    found = served.renewed()
    assert found is not None and found.identity == new
    assert served.renewed() is None
