"""One end of a connection, as the identity filter leaves it: `SHARD:IDENTITY:in` for an endpoint of this node, and with
`:out` for whoever is none. xds/compile/end.py says what each part is for."""

from __future__ import annotations

SOURCE, DESTINATION = "lockgate.source", "lockgate.destination"  # the keys of the filter state
SHARDS = 64  # into so many parts the HTTP policies of each direction are divided, as in xds/compile/shard.py
HERE, ELSEWHERE = ":in", ":out"


def in_shard(number: int) -> str:
    """What every end begins with whose policies are in this shard, from 0 on."""
    return f"{number}:"


def identity_of(end: str) -> str:
    """Whose end it is, in digits; also of its beginning, `SHARD:IDENTITY:`. A text that is no end stays as it is."""
    parts = end.split(":")
    return parts[1] if len(parts) == 3 else end
