"""A Kafka client in a pod: one operation with one of three libraries, and what came of it as one line of JSON.

    python kafka_client.py LIBRARY OPERATION SERVERS TOPIC [SETTING=VALUE...]

The outcome is `ok` or the name of the library's error; `values` are those that were read. Settings: `client_id`,
`group`, `compression`, `size` (bytes of a value), `count` (values), `protocol` (of the group), `transaction` (its id).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

logging.disable(logging.CRITICAL)
PATIENCE = 8.0  # seconds for one operation
VALUE = b"value"


class Settings(dict[str, str]):
    """SETTING=VALUE words."""

    @property
    def client_id(self) -> str:
        return self.get("client_id", "lockgate-test")

    @property
    def group(self) -> str:
        return self.get("group", "lockgate-group")

    @property
    def messages(self) -> list[bytes]:
        size, count = int(self.get("size", "0")), int(self.get("count", "1"))
        return [VALUE if not size else bytes([number % 251]) * size for number in range(count)]


# ---------------------------------------------------------------------------------------------------------- aiokafka


async def _aiokafka(operation: str, servers: str, topics: list[str], settings: Settings) -> list[str]:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    common: dict[str, Any] = {"bootstrap_servers": servers, "client_id": settings.client_id}
    match operation:
        case "produce" | "idempotent" | "transaction" | "acks0":
            options: dict[str, Any] = {"max_request_size": 64 << 20, "request_timeout_ms": 8000}
            if "compression" in settings:
                options["compression_type"] = settings["compression"]
            if operation == "idempotent":
                options["enable_idempotence"] = True
            if operation == "acks0":
                options["acks"] = 0
            if operation == "transaction":
                options["transactional_id"] = settings.get("transaction", "lockgate-transaction")
            producer = AIOKafkaProducer(**common, **options)
            await producer.start()
            try:
                if operation == "transaction":
                    async with producer.transaction():
                        for topic in topics:
                            for value in settings.messages:
                                await producer.send_and_wait(topic, value)
                else:
                    for topic in topics:
                        for value in settings.messages:
                            await producer.send_and_wait(topic, value)
            finally:
                await producer.stop()
            return []
        case "fetch" | "group":
            grouped = {"group_id": settings.group} if operation == "group" else {}
            consumer = AIOKafkaConsumer(**common, **grouped, auto_offset_reset="earliest", enable_auto_commit=False)
            await consumer.start()
            try:
                if operation == "group":
                    consumer.subscribe(topics)
                else:
                    partitions = [TopicPartition(topic, 0) for topic in topics]
                    consumer.assign(partitions)
                    await consumer.seek_to_beginning(*partitions)
                message = await consumer.getone()
                if operation == "group":
                    await consumer.commit()
                return [str((message.value or b"")[:20], "latin-1")]
            finally:
                await consumer.stop()
        case "create" | "delete":
            admin = AIOKafkaAdminClient(**common, request_timeout_ms=8000)
            await admin.start()
            try:
                if operation == "create":
                    answer = await admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
                    codes = [error[1] for error in answer.topic_errors]
                else:
                    answer = await admin.delete_topics(topics)
                    codes = [code for _, code in answer.topic_error_codes]
            finally:
                await admin.close()
            if any(codes):
                from aiokafka.errors import for_code

                raise for_code(next(code for code in codes if code))()
            return []
    raise SystemExit(f"aiokafka has no {operation} here")


# --------------------------------------------------------------------------------------------------- confluent-kafka


def _confluent(operation: str, servers: str, topics: list[str], settings: Settings) -> list[str]:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    problems: list[Any] = []
    common: dict[str, Any] = {
        "bootstrap.servers": servers,
        "client.id": settings.client_id,
        "error_cb": problems.append,
        "log_level": 0,
    }
    deadline = time.monotonic() + PATIENCE
    match operation:
        case "produce" | "idempotent" | "transaction" | "acks0":
            options: dict[str, Any] = {"message.timeout.ms": 8000, "message.max.bytes": 64 << 20}
            if "compression" in settings:
                options["compression.type"] = settings["compression"]
            if operation == "idempotent":
                options["enable.idempotence"] = True
            if operation == "acks0":
                options["acks"] = 0
            if operation == "transaction":
                options["transactional.id"] = settings.get("transaction", "lockgate-transaction")
            producer = Producer({**common, **options})
            outcomes: list[Any] = []
            if operation == "transaction":
                producer.init_transactions(8)
                producer.begin_transaction()
            for topic in topics:
                for value in settings.messages:
                    producer.produce(topic, value, on_delivery=lambda error, _: outcomes.append(error))
            producer.flush(10)
            wrong = [error for error in outcomes if error is not None]
            if wrong:
                if wrong[0].code() == KafkaError._DESTROY:
                    # librdkafka may take the topic away before it tells the message why; the topic says it.
                    for topic in topics:
                        told = producer.list_topics(topic, 5).topics[topic].error
                        if told is not None:
                            raise KafkaException(told)
                raise KafkaException(wrong[0])
            if len(outcomes) < len(topics) * len(settings.messages):
                raise TimeoutError
            if operation == "transaction":
                producer.commit_transaction(8)
            return []
        case "fetch" | "group":
            options = {"group.id": settings.group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
            if "protocol" in settings:
                options["group.protocol"] = settings["protocol"]
            consumer = Consumer({**common, **options})
            try:
                if operation == "group":
                    consumer.subscribe(topics)
                else:
                    consumer.assign([TopicPartition(topic, 0, 0) for topic in topics])
                while time.monotonic() < deadline:
                    message = consumer.poll(0.2)
                    if message is None:
                        fatal = [each for each in problems if each.code() != KafkaError._ALL_BROKERS_DOWN]
                        if fatal:
                            raise KafkaException(fatal[0])
                        continue
                    if message.error():
                        raise KafkaException(message.error())
                    if operation == "group":
                        consumer.commit(message=message, asynchronous=False)
                    return [str((message.value() or b"")[:20], "latin-1")]
                raise TimeoutError
            finally:
                consumer.close()
        case "create" | "delete":
            admin = AdminClient(common)
            futures = (
                admin.create_topics([NewTopic(topic, 1, 1) for topic in topics], request_timeout=8)
                if operation == "create"
                else admin.delete_topics(topics, request_timeout=8)
            )
            for future in futures.values():
                future.result(PATIENCE)
            return []
    raise SystemExit(f"confluent-kafka has no {operation} here")


# ------------------------------------------------------------------------------------------------------ kafka-python


def _kafka_python(operation: str, servers: str, topics: list[str], settings: Settings) -> list[str]:
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import KafkaAdminClient, NewTopic

    common: dict[str, Any] = {"bootstrap_servers": servers, "client_id": settings.client_id}
    match operation:
        case "produce" | "idempotent" | "transaction" | "acks0":
            options: dict[str, Any] = {
                "max_request_size": 64 << 20,
                "enable_idempotence": operation in ("idempotent", "transaction"),
                "max_block_ms": 8000,
                "request_timeout_ms": 5000,
                "delivery_timeout_ms": 8000,
            }
            if "compression" in settings:
                options["compression_type"] = settings["compression"]
            if operation == "acks0":
                options["acks"] = 0
            if operation == "transaction":
                options["transactional_id"] = settings.get("transaction", "lockgate-transaction")
            producer = KafkaProducer(**common, **options)
            try:
                if operation == "transaction":
                    producer.init_transactions()
                    producer.begin_transaction()
                sent = [producer.send(topic, value) for topic in topics for value in settings.messages]
                for future in sent:
                    future.get(PATIENCE)
                if operation == "transaction":
                    producer.commit_transaction()
            finally:
                producer.close(2)
            return []
        case "fetch" | "group":
            grouped = {"group_id": settings.group} if operation == "group" else {"group_id": None}
            consumer = KafkaConsumer(
                **common,
                **grouped,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                consumer_timeout_ms=int(PATIENCE * 1000),
            )
            try:
                if operation == "group":
                    consumer.subscribe(topics)
                else:
                    consumer.assign([TopicPartition(topic, 0) for topic in topics])
                    consumer.seek_to_beginning()
                for message in consumer:
                    if operation == "group":
                        consumer.commit()
                    return [str((message.value or b"")[:20], "latin-1")]
                raise TimeoutError
            finally:
                consumer.close()
        case "create" | "delete":
            admin = KafkaAdminClient(**common, request_timeout_ms=8000)
            try:
                if operation == "create":
                    admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
                else:
                    admin.delete_topics(topics)
            finally:
                admin.close()
            return []
    raise SystemExit(f"kafka-python has no {operation} here")


def _run(library: str, arguments: tuple[str, str, list[str], Settings]) -> list[str]:
    if library == "aiokafka":
        return asyncio.run(asyncio.wait_for(_aiokafka(*arguments), PATIENCE + 3))
    libraries: dict[str, Callable[..., list[str]]] = {"confluent-kafka": _confluent, "kafka-python": _kafka_python}
    return libraries[library](*arguments)


def _error_name(error: BaseException) -> str:
    """TopicAuthorizationFailedError and TOPIC_AUTHORIZATION_FAILED are one."""
    first = error.args[0] if error.args else None
    name = getattr(first, "name", None)
    if callable(name):  # confluent_kafka.KafkaError
        return str(name()).replace("_", "").lower().removesuffix("error")
    return type(error).__name__.lower().removesuffix("error")


def main() -> None:
    library, operation, servers, topics, *words = sys.argv[1:]
    settings = Settings(word.split("=", 1) for word in words)
    started = time.monotonic()
    outcome: dict[str, Any]
    try:
        values = _run(library, (operation, servers, topics.split(","), settings))
        outcome = {"outcome": "ok", "values": values}
    except Exception as error:
        outcome = {"outcome": _error_name(error), "text": str(error)[:300]}
    outcome["seconds"] = round(time.monotonic() - started, 2)
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
