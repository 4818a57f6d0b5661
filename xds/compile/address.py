"""IP addresses as Envoy writes them."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop

from ...policies.workload import IPAddress


def as_envoy_prints(address: IPAddress) -> str:
    """The spelling of Envoy's IP inputs (inet_ntop); Python's own differs for IPv6 addresses that end in IPv4."""
    return inet_ntop(AF_INET if address.version == 4 else AF_INET6, address.packed)
