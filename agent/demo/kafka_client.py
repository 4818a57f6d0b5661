"""The Kafka client in a client pod: `python -m lockgate.agent.demo.kafka_client`.

Reads one operation a line on standard input (`{"target": "10.200.0.6:9092", "client_id": "demo", "operation":
"produce", "topic": "orders", "timeout": 1.0}`) and writes what happened a line on standard output: `{"outcome":
"answered", "error": ""}` with the library's name of the error, or outcome `dropped` (no connection within the time).
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

_PATIENCE_MS = 20_000


def operate(wanted: dict[str, Any]) -> dict[str, Any]:
    """One operation to its end."""
    host, _, port = wanted["target"].rpartition(":")
    try:
        socket.create_connection((host, int(port)), float(wanted["timeout"])).close()
    except TimeoutError:
        return {"outcome": "dropped"}
    except OSError as error:
        return {"outcome": "refused", "error": str(error)}
    common = {"bootstrap_servers": wanted["target"], "client_id": wanted["client_id"]}
    try:
        _run(wanted["operation"], wanted["topic"], common)
    except KafkaError as error:
        return {"outcome": "answered", "error": type(error).__name__.removesuffix("Error")}
    return {"outcome": "answered", "error": ""}


def _run(operation: str, topic: str, common: dict[str, Any]) -> None:
    match operation:
        case "produce":
            producer = KafkaProducer(**common, max_block_ms=_PATIENCE_MS, enable_idempotence=False)
            try:
                producer.send(topic, b"one").get(_PATIENCE_MS / 1000)
            finally:
                producer.close(1)
        case "consume":
            consumer = KafkaConsumer(**common, consumer_timeout_ms=_PATIENCE_MS, auto_offset_reset="earliest")
            try:
                consumer.assign([TopicPartition(topic, 0)])
                next(consumer)
            finally:
                consumer.close()
        case "create" | "delete":
            admin = KafkaAdminClient(**common)
            try:
                if operation == "create":
                    admin.create_topics([NewTopic(topic, 1, 1)])
                else:
                    admin.delete_topics([topic])
            finally:
                admin.close()


def main() -> None:
    """Answer lines until standard input ends."""
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        print(json.dumps(operate(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
