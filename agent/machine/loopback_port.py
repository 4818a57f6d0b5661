"""The TCP ports on loopback that a node needs, and whether somebody else has them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port on one of the loopback addresses, by the name of its setting. `trouble` says why nobody can listen
    there; empty when somebody can."""

    key: str
    address: str
    number: int
    trouble: str = ""

    def __str__(self) -> str:
        return f"{self.address}:{self.number}"


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
                yield Port(key, address, number, str(error.strerror))
            else:
                yield Port(key, address, number)
