"""What Envoy is told about Kafka: the listener, and the policy that their requests are judged by."""

from __future__ import annotations

from pathlib import Path

from ...envoy.config.identity_filter import Ipcache
from ...envoy.config.kafka_listener import NAME, KafkaListener, kafka_listener
from ...xds import LISTENER, Enforced, KafkaCompiler, Policed, Resource


class KafkaSide:
    """`resources` is a pure function of its arguments; the object only remembers what is costly to make again.

    The listener is there also while no rule is about Kafka: the connections of a listener that goes away end with it.
    """

    def __init__(self, settings: KafkaListener, access_log: Path, ipcache: Ipcache) -> None:
        self.port = settings.port
        self._compiler = KafkaCompiler(access_log)
        self._listener = Resource(LISTENER, NAME, kafka_listener(settings, ipcache))

    def resources(self, enforced: Enforced, policed: Policed) -> tuple[Resource, ...]:
        """All of them; `policed` as for NodeCompiler.compile, of `kafka_policed_by`."""
        return (self._listener, self._compiler.compile(enforced, policed))
