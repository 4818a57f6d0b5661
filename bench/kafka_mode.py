"""Ways for Kafka requests to reach a broker: direct, through the node's Envoy with the Kafka filter and without it, and
through a sidecar pair, which can only pass them on."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from lockgate.agent.playground import Pod
from lockgate.redirect.kernel import netns

from . import counter, kafka_messages
from .direct import Direct
from .errors import CheckError
from .mode import PORT, Mode, spawn
from .policed import Policed, policy_for
from .sidecar import SidecarPair, tcp_configuration

_DROP_SECONDS = 0.7
_BYTES = r"^tcp\..*\.downstream_cx_rx_bytes_total$"
_RULES = f"""\
kafka:
- {{role: produce, topic: {kafka_messages.ALLOWED}}}
- {{role: consume, topic: {kafka_messages.ALLOWED}}}
"""


class KafkaMode(Mode):
    """Its origin is bench/kafka_origin.c, which answers every Produce and Fetch. `sends` is what the load sends now."""

    OK: ClassVar[str] = "ok"
    DENIED: ClassVar[str] = "denied"
    sends: bytes = b""

    def _serve(self) -> subprocess.Popen[bytes]:
        produced, fetched = self.directory / "produced", self.directory / "fetched"
        produced.write_bytes(kafka_messages.produced(kafka_messages.ALLOWED))
        fetched.write_bytes(kafka_messages.fetched(kafka_messages.ALLOWED, kafka_messages.FETCHED))
        command: list[str | Path] = [self.ground.origin, str(PORT), str(self.ground.threads), produced, fetched]
        return spawn(self.server, command)

    @property
    def url(self) -> str:
        return f"{self.server.ipv4}:{PORT}"

    def check(self) -> None:
        """Raises CheckError: naming the topic, what was expected and what came."""
        self.sends = kafka_messages.produce(kafka_messages.ALLOWED, 100)
        before = self.counted()
        self._expect_produce(self.client, kafka_messages.ALLOWED, self.OK)
        self.require_path(before, 1, 1)
        self._expect_produce(self.client, kafka_messages.FORBIDDEN, self.forbidden)
        self._expect_produce(self.intruder, kafka_messages.ALLOWED, self.intruder_gets)

    def require_path(self, before: tuple[int, ...], least: int, most: int) -> None:
        """As of every mode, by the bytes of so many requests."""
        super().require_path(before, least * len(self.sends), most * len(self.sends))

    def _expect_produce(self, pod: Pod, topic: str, wanted: str) -> None:
        came = netns.run_in(pod.path, lambda: self._produce(topic))
        if came != wanted:
            raise CheckError(f"{self.title}: a produce to {topic} from {pod.name} gave {came}, expected {wanted}")

    def _produce(self, topic: str) -> str:
        try:
            with socket.create_connection((str(self.server.ipv4), PORT), timeout=_DROP_SECONDS) as line:
                line.sendall(kafka_messages.produce(topic, 100))
                with line.makefile("rb") as stream:
                    head = stream.read(4)
                    response = head + stream.read(struct.unpack(">i", head)[0]) if head else b""
        except TimeoutError:
            return "dropped"
        except OSError:
            return "closed"
        if not response:
            return "closed"
        error = kafka_messages.error_of_produce(response, topic)
        return {0: self.OK, kafka_messages.DENIED: self.DENIED}.get(error, f"error {error}")


class KafkaDirect(KafkaMode, Direct):
    """No policy and no proxy."""

    key = "direct"
    title = "direct"
    forbidden = KafkaMode.OK
    intruder_gets = KafkaMode.OK


class KafkaPoliced(KafkaMode, Policed):
    """Through the node's Envoy and its Kafka filter, one topic allowed."""

    key = "policed"
    title = "Envoy, Kafka rules"
    forbidden = KafkaMode.DENIED
    intruder_gets = "dropped"
    proxied = True
    policy = policy_for("server", _RULES)

    def counted(self) -> tuple[int, ...]:
        return (_bytes(self._settings.admin_socket, "lockgate_kafka"),)


class KafkaOpen(KafkaPoliced):
    """The same listener with everything but the filter."""

    key = "open"
    title = "Envoy, tcp_proxy"
    forbidden = KafkaMode.OK
    command = (sys.executable, "-P", "-m", "lockgate.bench.kafka_open")


class KafkaSidecars(KafkaMode, SidecarPair):
    """Two passes through two Envoys; the server's judges who connects, for a stock Envoy cannot judge topics."""

    key = "sidecar"
    title = "sidecar pair"
    forbidden = KafkaMode.OK
    intruder_gets = "closed"

    def _configuration(self, pod: Pod) -> dict[str, Any]:
        return tcp_configuration(self._admin(pod), self.client.ipv4)

    def counted(self) -> tuple[int, ...]:
        return tuple(
            _bytes(self._admin(pod), prefix) for pod, prefix in ((self.client, "outbound"), (self.server, "inbound"))
        )


def _bytes(admin: Path, prefix: str) -> int:
    return counter.matching(admin, _BYTES).get(f"tcp.{prefix}.downstream_cx_rx_bytes_total", 0)


__all__ = ["KafkaDirect", "KafkaMode", "KafkaOpen", "KafkaPoliced", "KafkaSidecars"]
