"""A client's talk with a subscription, in place of streams."""

from __future__ import annotations

from collections.abc import Mapping

from lockgate.xds.serve.flight import Update
from lockgate.xds.serve.node_memory import TypeMemory
from lockgate.xds.serve.subscription import Subscription
from lockgate.xds.snapshot import CLUSTER, Resource


def resource(name: str, content: str = "1", type_url: str = CLUSTER) -> Resource:
    return Resource(type_url, name, content.encode())


def offered(*resources: Resource) -> Mapping[str, Resource]:
    return {one.name: one for one in resources}


A1, A2, B1, C1 = resource("a"), resource("a", "2"), resource("b"), resource("c")


class Talk:
    """A subscription with a publisher that counts revisions."""

    def __init__(self, *published: Resource, type_url: str = CLUSTER, memory: TypeMemory | None = None) -> None:
        self.memory = memory or TypeMemory()
        self.subscription = Subscription(type_url, self.memory)
        self.published = offered(*published)
        self.revision = 1

    def begin(self, *names: str, held: Mapping[str, str] | None = None) -> list[Update]:
        self.subscription.begin(names, held or {})
        return self.due()

    def publish(self, *published: Resource) -> list[Update]:
        self.published = offered(*published)
        self.revision += 1
        return self.due()

    def due(self) -> list[Update]:
        return self.subscription.due(self.published, self.revision)

    def ack(self, update: Update) -> list[Update]:
        assert self.subscription.acknowledge(update.nonce)
        return self.due()

    def nack(self, update: Update, error: str = "bad") -> list[Update]:
        assert self.subscription.reject(update.nonce, error)
        return self.due()


def said(updates: list[Update]) -> list[tuple[list[str], list[str]]]:
    return [
        ([f"{one.name}:{one.body.decode()}" for one in update.resources], list(update.removed)) for update in updates
    ]


def only(updates: list[Update]) -> Update:
    (update,) = updates
    return update
