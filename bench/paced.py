"""The load at a fixed rate: bench/paced.c in the client's pod, an open loop."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from lockgate.agent.playground import Pod

from .errors import LoadError
from .load import Load, parse
from .rounds import LoadOf
from .workplace import compiled

CONNECTIONS = 16
_PATIENCE = 30  # seconds over the time of the run


def prepare(directory: Path) -> LoadOf:
    """The load; its third argument is the rate, in requests a second. Raises StartError when it cannot be compiled."""
    binary = compiled("paced.c", directory)

    def run(client: Pod, url: str, rate: int, seconds: int, threads: int) -> Load:
        asked = urlsplit(url)
        command: list[str | Path] = [binary, str(asked.hostname), str(asked.port), asked.path]
        command += [str(rate), str(CONNECTIONS), str(seconds)]
        process = client.popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=seconds + _PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        if process.returncode != 0:
            raise LoadError(f"paced ended with status {process.returncode} on {url}: {output.strip()[-300:]}")
        return parse("paced", output, url)

    return run
