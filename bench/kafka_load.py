"""The load of Kafka: bench/kafka_load.c in the client's pod, one request over and over on a few connections."""

from __future__ import annotations

from pathlib import Path

from lockgate.agent.playground import Pod

from .kafka_messages import Work
from .load import Load, parse, printed
from .rounds import LoadOf
from .workplace import compiled


def prepare(work: Work, directory: Path) -> LoadOf:
    """The load of one kind of work. Raises StartError when it cannot be compiled."""
    request, response = directory / f"{work.key}.request", directory / f"{work.key}.response"
    request.write_bytes(work.request)
    response.write_bytes(work.response)
    binary = compiled("kafka_load.c", directory)

    def run(client: Pod, url: str, connections: int, seconds: int, threads: int) -> Load:
        address, port = url.split(":")
        command: list[str | Path] = [binary, address, port, str(connections), str(seconds)]
        command += [str(min(threads, connections)), request, response]
        return parse("kafka_load", printed("kafka_load", client, command, url, seconds), url)

    return run
