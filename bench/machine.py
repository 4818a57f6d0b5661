"""What a run was measured on and with."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lockgate.envoy.running.binary import EnvoyBinary

_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts for the head of a report. `commit` ends in "+changes" when the working tree differs from it."""

    date: str
    commit: str
    cores: int
    processor: str
    memory_gib: float
    kernel: str
    congestion_control: str
    system: str
    envoy: str
    wrk: str
    nft: str
    compiler: str

    def __str__(self) -> str:
        """The end of a report's head: when, what and on what."""
        return (
            f"{self.date}, commit {self.commit}.\n"
            f"{self.cores} cores ({self.processor}), {self.memory_gib:g} GiB, "
            f"Linux {self.kernel} (TCP {self.congestion_control}), {self.system}; "
            f"Envoy {self.envoy}, wrk {self.wrk}, nftables {self.nft}, gcc {self.compiler}."
        )


def machine(envoy: EnvoyBinary) -> Machine:
    """This machine, now."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        cores=os.sysconf("SC_NPROCESSORS_ONLN"),
        processor=_field(Path("/proc/cpuinfo"), "model name", ":"),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        kernel=platform.release(),
        congestion_control=Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        system=_field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
        envoy=f"{envoy.version} ({envoy.commit[:12]})",
        wrk=_package("wrk"),
        nft=_package("nftables"),
        compiler=_package("gcc"),
    )


def _commit() -> str:
    commit = _output(["git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD"])
    changes = _output(["git", "-C", str(_ROOT), "status", "--porcelain", "--", ".", ":!bench/results"])
    return (commit or "unknown") + ("+changes" if changes else "")


def _package(name: str) -> str:
    return _output(["dpkg-query", "-W", "-f", "${Version}", name]) or "unknown"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _field(file: Path, name: str, separator: str) -> str:
    for line in file.read_text().splitlines():
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return "unknown"
