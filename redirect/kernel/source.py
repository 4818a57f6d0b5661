"""The BPF sources as one text: bcc rewrites map accesses in the main file only, so our own headers are put in place."""

from __future__ import annotations

import re
from importlib.resources import files

_INCLUDE = re.compile(r'^#include "([^"]+)"$')


def read_source(name: str = "lockgate.c") -> str:
    """`bpf/NAME` with every `#include "header"` of ours replaced by the header; clang still names the real lines."""
    return "\n".join(_expand(name, set())) + "\n"


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
