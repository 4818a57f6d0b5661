"""Finds Envoy's dynamic module, the library built from `module/`, and checks what it was built for.

Envoy only warns about a module of another ABI and then calls it with the wrong arguments, so a module for another Envoy
is refused before Envoy ever sees it. `scripts/build-module` builds it; the wheel carries it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModuleError
from .binary import EnvoyBinary

NAME = "lockgate"  # Envoy asks its search path for lib<NAME>.so
ABI = "v0.2.0"  # of Envoy 1.40
SEARCH_PATH = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH"

_FILE = Path(__file__).parents[1] / "module" / f"lib{NAME}.so"
_AGAIN = "run scripts/setup, or reinstall the package"
_BUILT = re.compile(rb"lockgate-module envoy=(?P<envoy>\S+) abi=(?P<abi>\S+) sources=(?P<sources>\S+)\n")


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """A module that fits the node's Envoy. `path` is absolute and without links; `sources` names what it was built
    from."""

    path: Path
    sources: str

    @property
    def environment(self) -> dict[str, str]:
        """By which Envoy finds it."""
        return {SEARCH_PATH: str(self.path.parent)}


def find_module(binary: EnvoyBinary, path: Path = _FILE) -> ModuleFile:
    """The module for `binary`. Raises `ModuleError` when there is none, or when it was built for another Envoy."""
    path = path.resolve()
    try:
        built = _BUILT.search(path.read_bytes())
    except OSError as error:
        raise ModuleError(f"no dynamic module for Envoy at {path} ({error.strerror}); {_AGAIN}") from error
    if built is None:
        raise ModuleError(f"{path} is not Lockgate's dynamic module; {_AGAIN}")
    envoy, abi = built["envoy"].decode(), built["abi"].decode()
    if (envoy, abi) != (binary.version, ABI):
        raise ModuleError(
            f"the dynamic module {path} is for Envoy {envoy} (ABI {abi}), but {binary.path} is Envoy {binary.version} "
            f"(ABI {ABI}); {_AGAIN}"
        )
    return ModuleFile(path, built["sources"].decode())
