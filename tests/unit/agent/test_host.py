"""What a machine must have. (Not being root, and lacks that need other mounts, are tested end to end.)"""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from pathlib import Path

import pytest
from lockgate.agent.errors import HostError
from lockgate.agent.machine.host import _kernel, make_own_dir, require_host, require_port
from lockgate.agent.settings import Settings
from lockgate.redirect.kernel import netns


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.6.0", (6, 6)), ("5.10.0-28-amd64", (5, 10)), ("6.12-rc1", (6, 12)), ("7.0.1+", (7, 0))],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert _kernel(release) == version


def test_a_kernel_with_another_naming_is_tried() -> None:
    assert _kernel("custom") >= (6, 6)


def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.1.0-18-amd64")
    with pytest.raises(HostError, match=r"^kernel 6\.1\.0-18-amd64 is too old: tcx links need 6\.6"):
        require_host()


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_that_another_program_uses(family: socket.AddressFamily, address: str, tmp_path: Path) -> None:
    with socket.socket(family) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        (tmp_path / "envoy.json").write_text("{}")  # of a crashed run: it says nothing about who has the port now
        with pytest.raises(HostError) as refused:
            require_port(Settings(tmp_path, tmp_path, run_dir=tmp_path, http_port=port))
    shown = f"[{address}]" if ":" in address else address
    assert str(refused.value) == (
        f"Envoy's port {shown}:{port} cannot be used (Address already in use): find its user with "
        f"'ss -ltnp sport = :{port}' and stop it, or set another http_port in the --config file"
    )
    require_port(Settings(tmp_path, tmp_path, run_dir=tmp_path, http_port=port))


def test_a_loopback_without_addresses_is_nobodys_port(tmp_path: Path) -> None:
    """As where IPv6 is switched off, or lo is down."""
    name = f"lg-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        settings = Settings(tmp_path, tmp_path, run_dir=tmp_path)
        with pytest.raises(
            HostError, match=r"port \[::1\]:15001 .*: bring lo up with both addresses: ip link set lo up"
        ):
            netns.run_in(netns.named(name), lambda: require_port(settings))
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_a_folder_of_the_agents_is_for_root_only_and_may_be_there_already(tmp_path: Path) -> None:
    for _ in range(2):
        make_own_dir(tmp_path / "a" / "b", "--run-dir")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"^--run-dir .*file/x: Not a directory; give a folder that root can write$"):
        make_own_dir(tmp_path / "file" / "x", "--run-dir")


@pytest.mark.parametrize("mode", [0o770, 0o1777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Somebody else may have put a database of accepted policies there, or a socket for Envoy to ask."""
    tmp_path.chmod(mode)
    with pytest.raises(HostError, match=r"^--state-dir .*: others than root may write it; give a folder of root's own"):
        make_own_dir(tmp_path, "--state-dir")
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(
        HostError, match=r": user 65534 owns it; give a folder of root's own, or one that does not exist"
    ):
        make_own_dir(tmp_path, "--state-dir")


def test_pins_are_named_by_the_run_dir() -> None:
    def pins(run_dir: str) -> str:
        return str(Settings(Path("/"), Path("/"), run_dir=Path(run_dir)).pin_dir)

    assert pins("/run/lockgate") == "/sys/fs/bpf/run-lockgate"
    assert pins("/tmp/a.b/c") == "/sys/fs/bpf/tmp-a_b-c", "a bpffs takes no dots in names"
