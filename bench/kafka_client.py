"""A Kafka client of a load: what it writes to a topic it reads again from there."""

from __future__ import annotations

import time
import warnings
from types import TracebackType
from typing import Any, Self

with warnings.catch_warnings():  # its import warns, which must not matter where warnings are errors
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.errors import KafkaError


class ReadAndWrite:
    """A producer and a consumer of kafka-python, with connections of their own. A context manager."""

    def __init__(self, brokers: str, topic: str, patience: float, **producing: object) -> None:
        """`producing` are settings of the producer. Raises KafkaError when no broker answers."""
        self._topic, self._patience = topic, patience
        options: dict[str, Any] = {"enable_idempotence": False, "max_block_ms": int(patience * 1000)} | producing
        self._producer = KafkaProducer(bootstrap_servers=brokers, **options)
        self._consumer = KafkaConsumer(bootstrap_servers=brokers, group_id=None, enable_auto_commit=False)
        self._partition = TopicPartition(topic, 0)
        self._consumer.assign([self._partition])

    def write_and_read(self, value: bytes) -> None:
        """One message to the broker and back. Raises KafkaError, ValueError."""
        written = self._producer.send(self._topic, value, partition=0).get(self._patience)
        self._consumer.seek(self._partition, written.offset)
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            for read in self._consumer.poll(timeout_ms=500, max_records=1).get(self._partition, ()):
                if read.value != value:
                    raise ValueError(f"another message at offset {written.offset}")
                return
        raise ValueError(f"no message at offset {written.offset} within {self._patience:.0f} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.close(1)
        self._consumer.close()


__all__ = ["KafkaError", "ReadAndWrite"]
