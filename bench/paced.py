"""The load at a fixed rate: bench/paced.c in the client's pod, an open loop."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from lockgate.agent.playground import Pod

from .load import Load, parse, printed
from .rounds import LoadOf
from .workplace import compiled

CONNECTIONS = 16


def prepare(directory: Path) -> LoadOf:
    """The load; its third argument is the rate, in requests a second. Raises StartError when it cannot be compiled."""
    binary = compiled("paced.c", directory)

    def run(client: Pod, url: str, rate: int, seconds: int, threads: int) -> Load:
        asked = urlsplit(url)
        command: list[str | Path] = [binary, str(asked.hostname), str(asked.port), asked.path]
        command += [str(rate), str(CONNECTIONS), str(seconds)]
        return parse("paced", printed("paced", client, command, url, seconds), url)

    return run
