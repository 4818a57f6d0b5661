"""The node's agent with a Kafka listener that has all but the Kafka filter: what the filter's cost is compared with.

    python -P -m lockgate.bench.kafka_open agent run ...

The filter stands in a chain of its own that no connection takes, so that Envoy is given its policy all the same and the
agent finds everything in force.
"""

from __future__ import annotations

from lockgate.agent.cli import run
from lockgate.agent.force import kafka_side
from lockgate.envoy.config import kafka_listener
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.kafka_listener import KafkaListener
from lockgate.envoy.config.messages import listener

_NOBODY = 1  # a port that no connection of the bench goes to


def without_filter(settings: KafkaListener, ipcache: Ipcache) -> bytes:
    """The product's listener, with the slot moved out of the way."""
    made = listener.Listener().parse(kafka_listener.kafka_listener(settings, ipcache))
    judged = made.filter_chains[0]
    unused = listener.FilterChain(
        name="unused",
        filters=list(judged.filters),
        filter_chain_match=listener.FilterChainMatch(destination_port=_NOBODY),
    )
    judged.filters = [each for each in judged.filters if each.name != settings.slot]
    made.filter_chains.append(unused)
    return bytes(made)


if __name__ == "__main__":
    kafka_side.kafka_listener = without_filter  # type: ignore[attr-defined]
    run()
