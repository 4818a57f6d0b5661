"""The BPF sources as one text: bcc rewrites map accesses in the main file only, so our own headers are put in place.

What a program must know of this very kernel is in the text too: whoever keeps what it became does not mistake it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from ..errors import BpfUnsupportedError
from .kernel_types import BTF, KernelTypes

# What a source reads of the kernel's own structures, which user-space headers do not have.
_OF_PACKETS_AND_SOCKETS = (
    ("sk_buff", "ip_summed"),
    ("sk_buff", "csum_start"),
    ("sk_buff", "csum_offset"),
    ("sk_buff", "mac_header"),
    ("sk_buff", "network_header"),
    ("udp_sock", "encap_type"),
    ("udp_sock", "gro_receive"),
)
_ABOVE = (
    ("sk_buff", "dev"),
    ("net_device", "adj_list", "upper"),
    ("netdev_adjacent", "dev"),
    ("netdev_adjacent", "list"),
    ("netdev_adjacent", "master"),
)
_DEVICE = (*_ABOVE, ("net_device", "ifindex"), ("net_device", "name"))
_FIELDS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "lockgate.c": (*_OF_PACKETS_AND_SOCKETS, *_ABOVE),
    "host_routing.c": (*_OF_PACKETS_AND_SOCKETS, *_ABOVE),
    "processes.c": (*_OF_PACKETS_AND_SOCKETS, *_ABOVE),
    "newcomers.c": _DEVICE,
    "unseen.c": (*_DEVICE, ("net_device", "rtnl_link_ops"), ("rtnl_link_ops", "kind")),
}
_INCLUDE = re.compile(r'^#include "([^"]+)"$')


def read_source(name: str = "lockgate.c") -> str:
    """`bpf/NAME` with every `#include "header"` of ours replaced by the header; clang still names the real lines.

    Before it the offsets of the kernel's fields that it reads, as NET_DEVICE_IFINDEX and the like, and of parts of a
    byte their bits in it, as SK_BUFF_IP_SUMMED_MASK. Raises BpfUnsupportedError when this kernel does not tell them.
    """
    return "\n".join([*_offsets(name), *_expand(name, set())]) + "\n"


@cache
def _offsets(name: str) -> tuple[str, ...]:
    fields = _FIELDS.get(name, ())
    if not fields:
        return ()
    try:
        types = KernelTypes(BTF.read_bytes())
    except OSError as error:
        raise BpfUnsupportedError(
            f"{BTF} cannot be read ({error.strerror}); use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        ) from error
    defined = []
    for path in fields:
        name = "_".join(path).upper()
        defined.append(f"#define {name} {types.offset(*path)}")
        if mask := types.mask(*path):
            defined.append(f"#define {name}_MASK {mask}")
    return tuple(defined)


def _expand(name: str, seen: set[str]) -> list[str]:
    if name in seen:
        return []
    seen.add(name)
    lines = [f'#line 1 "bpf/{name}"']
    for number, line in enumerate(files("lockgate.bpf").joinpath(name).read_text().splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include:
            lines += [*_expand(include[1], seen), f'#line {number + 1} "bpf/{name}"']
        elif line != "#pragma once":
            lines.append(line)
        else:
            lines.append("")
    return lines
