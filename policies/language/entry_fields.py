"""What entries of workloads and of services have in common: names, labels, addresses."""

from __future__ import annotations

import re
from ipaddress import ip_address

from ..labels import CIDR, FQDN, RESERVED, split_key, valid_key, valid_value
from ..workload import IPAddress
from .fields import Field, shorten

DEFAULT_NAMESPACE = "default"
_NOT_GIVEN = (RESERVED, CIDR, FQDN)  # by these policies mean the node and the like, addresses, and names
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def read_names(item: Field, fields: dict[str, Field]) -> tuple[str, str] | None:
    """Name and namespace; None, with a problem, where one cannot be told."""
    name = fields["name"].text() if "name" in fields else ""
    namespace = fields["namespace"].text() if "namespace" in fields else DEFAULT_NAMESPACE
    if name == "":
        item.error("the entry has no name", "write name: and a name")
        return None
    if name is None or namespace is None:
        return None
    if not NAME.fullmatch(name):
        fields["name"].error(f"'{shorten(name)}' is not a name", "use lower-case letters, digits, '-' and '.'")
        return None
    if not _NAMESPACE.fullmatch(namespace):
        fields["namespace"].error(
            f"'{shorten(namespace)}' is not a namespace", "use lower-case letters, digits and '-'"
        )
        return None
    return name, namespace


def read_labels(field: Field) -> tuple[tuple[str, str], ...]:
    """Labels, or a selector, as sorted pairs."""
    found: dict[str, str] = {}
    for key, value in (field.mapping(None) or {}).items():
        source, name = split_key(key, "")
        text = value.text()
        if source in _NOT_GIVEN:
            value.error(f"{source} labels are not given to workloads", "remove it")
        elif not valid_key(name):
            value.error(f"'{shorten(key)}' is not a label key", "write name or prefix/name")
        elif text is not None and not valid_value(text):
            value.error(
                f"'{shorten(text)}' is not a label value",
                "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            )
        elif text is not None:
            found[key] = text
    return tuple(sorted(found.items()))


def read_addresses(field: Field) -> tuple[IPAddress, ...]:
    """A list of addresses, each once."""
    found: list[IPAddress] = []
    for item in field.items():
        address = read_address(item)
        if address is None:
            continue
        if address in found:
            item.error(f"{address} is listed twice", "remove one of the two")
        found.append(address)
    return tuple(found)


def read_own_addresses(field: Field) -> tuple[IPAddress, ...]:
    """Those that a workload or a node has: packets come from them, over a link."""
    found = read_addresses(field)
    for address in found:
        mapped = address.version == 6 and address.ipv4_mapped is not None
        if address.is_loopback or address.is_multicast or address.is_unspecified or mapped:
            field.error(f"no packet comes from {address}", "write an address that others see")
    return found


def read_address(field: Field) -> IPAddress | None:
    """One address."""
    text = field.text()
    if text is None:
        return None
    try:
        if "%" in text:
            raise ValueError(text)
        return ip_address(text)
    except ValueError:
        field.error(f"'{shorten(text)}' is not an IP address", "write the address alone, without prefix or port")
        return None
