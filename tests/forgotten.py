"""The kernel's map of connections, emptied: as if very many others had come meanwhile."""

from __future__ import annotations

from pathlib import Path

from lockgate.redirect.kernel.maps import PinnedMap
from lockgate.redirect.layout import CONNECTIONS_NAME, SIZES, Codec


def forget_connections(pin_dir: Path) -> None:
    """What the programs of this data path remember of connections."""
    key_size, value_size = SIZES[CONNECTIONS_NAME]
    raw = Codec[bytes, bytes](CONNECTIONS_NAME, key_size, value_size, bytes, bytes, bytes, bytes)
    remembered = PinnedMap(pin_dir / "maps", raw)
    try:
        remembered.remove(remembered.read())
    finally:
        remembered.close()
