"""The BPF sources as one text: bcc rewrites map accesses in the main file only, so our own headers are put in place.

What a program must know of this very kernel is in the text too: whoever keeps what it became does not mistake it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files

from ..errors import BpfUnsupportedError
from .kernel_types import BTF, CONNTRACK_BTF, KernelTypes

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
# By which bpf/masked.h does more: all or none, as on a kernel whose connection tracking is not loaded.
_OF_CONNTRACK = (
    ("sk_buff", "_nfct"),
    ("nf_conn", "tuplehash"),
    ("nf_conntrack_tuple_hash", "tuple"),
    ("nf_conntrack_tuple", "src"),
    ("nf_conntrack_man", "u3"),
)
_WELCOME: Mapping[str, Sequence[tuple[str, ...]]] = {"lockgate.c": _OF_CONNTRACK, "host_routing.c": _OF_CONNTRACK}
_INCLUDE = re.compile(r'^#include "([^"]+)"$')


def read_source(name: str = "lockgate.c") -> str:
    """`bpf/NAME` with every `#include "header"` of ours replaced by the header; clang still names the real lines.

    Before it the offsets of the kernel's fields that it reads, as NET_DEVICE_IFINDEX and the like, and of parts of a
    byte their bits in it, as SK_BUFF_IP_SUMMED_MASK. Raises BpfUnsupportedError when this kernel does not tell those
    that a program cannot do without.
    """
    return "\n".join([*_offsets(name), *_expand(name, set())]) + "\n"


@cache
def _offsets(name: str) -> tuple[str, ...]:
    fields = _FIELDS.get(name, ())
    if not fields:
        return ()
    try:
        kernel = BTF.read_bytes()
    except OSError as error:
        raise BpfUnsupportedError(
            f"{BTF} cannot be read ({error.strerror}); use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        ) from error
    types = KernelTypes(kernel, CONNTRACK_BTF.read_bytes() if CONNTRACK_BTF.exists() else b"")
    defined = list(_defined(types, fields))
    with suppress(BpfUnsupportedError):
        defined += list(_defined(types, _WELCOME.get(name, ())))
    return tuple(defined)


def _defined(types: KernelTypes, fields: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for path in fields:
        name = "_".join(path).upper()
        yield f"#define {name} {types.offset(*path)}"
        if mask := types.mask(*path):
            yield f"#define {name}_MASK {mask}"


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
