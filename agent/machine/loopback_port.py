"""The TCP ports on loopback that a node needs, and whether somebody else has them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port on one of the loopback addresses, by the name of its setting. `trouble` says why nobody can listen
    there and `advice` what to do about it; both are empty when somebody can."""

    key: str
    address: str
    number: int
    trouble: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return f"[{self.address}]:{self.number}" if ":" in self.address else f"{self.address}:{self.number}"


def try_ports(settings: Settings, keys: Iterable[str]) -> Iterator[Port]:
    """These ports of the settings, each on both loopback addresses."""
    loopback = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    for key, (family, address) in product(keys, loopback):
        number = getattr(settings, key)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, number))
            except OSError as error:
                yield Port(key, address, number, str(error.strerror), _advice(error, key, number))
            else:
                yield Port(key, address, number)


def _advice(error: OSError, key: str, number: int) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "bring lo up with both addresses: ip link set lo up; sysctl net.ipv6.conf.lo.disable_ipv6=0"
    return f"find its user with 'ss -ltnp sport = :{number}' and stop it, or set another {key} in the --config file"
