"""The node's agent with Kafka listeners that have all but the Kafka filter: what the filter's cost is compared with.

    python -P -m lockgate.bench.kafka_open agent run ...

The filter stands in a chain of its own that no connection takes, so that Envoy is given its policy all the same and the
agent finds everything in force.
"""

from __future__ import annotations

from collections.abc import Mapping

from lockgate.agent import kafka_side
from lockgate.agent.cli import run
from lockgate.envoy import kafka_listener
from lockgate.envoy.identity_filter import Ipcache
from lockgate.envoy.kafka_listener import KafkaListener
from lockgate.envoy.messages import listener

_NOBODY = 1  # a port that no connection of the bench goes to


def without_filter(settings: KafkaListener, ipcache: Ipcache) -> Mapping[str, bytes]:
    """The product's listeners, by name, with the slot moved out of the way."""
    return {
        name: _moved(body, settings.slot) for name, body in kafka_listener.kafka_listeners(settings, ipcache).items()
    }


def _moved(body: bytes, slot: str) -> bytes:
    made = listener.Listener().parse(body)
    judged = made.filter_chains[0]
    unused = listener.FilterChain(
        name="unused",
        filters=list(judged.filters),
        filter_chain_match=listener.FilterChainMatch(destination_port=_NOBODY),
    )
    judged.filters = [each for each in judged.filters if each.name != slot]
    made.filter_chains.append(unused)
    return bytes(made)


if __name__ == "__main__":
    kafka_side.kafka_listeners = without_filter  # type: ignore[attr-defined]
    run()
