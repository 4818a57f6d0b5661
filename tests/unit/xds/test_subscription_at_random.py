"""The subscription machine and a client that plays at random."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lockgate.tests.unit.xds.talk import offered, resource
from lockgate.xds.serve.flight import Update
from lockgate.xds.serve.node_memory import TypeMemory
from lockgate.xds.serve.subscription import Subscription
from lockgate.xds.snapshot import CLUSTER, FILTER_CONFIG, Resource


class Client(RuleBasedStateMachine):
    """A client that follows the protocol, loses streams, refuses some contents, and is slow.

    In the end it must hold exactly what is published and not refused, and nothing refused may be sent twice.
    """

    NAMES = ("a", "b", "c")
    BAD = frozenset("x")

    @initialize(wildcard=st.booleans(), type_url=st.sampled_from([CLUSTER, FILTER_CONFIG]))
    def start(self, wildcard: bool, type_url: str) -> None:
        self.type_url = type_url
        self.memory = TypeMemory()
        self.published: Mapping[str, Resource] = {}
        self.revision = 1
        self.wildcard = wildcard
        self.wanted = set() if wildcard else {"a", "b"}
        self.cache: dict[str, Resource] = {}
        self.solo_rejections: set[tuple[str, str]] = set()
        self.inbox: list[Update] = []
        self.connect()

    def connect(self) -> None:
        self.subscription = Subscription(self.type_url, self.memory)
        self.inbox = []
        names = ["*", *sorted(self.wanted)] if self.wildcard else sorted(self.wanted)
        self.subscription.begin(names, {name: one.version for name, one in self.cache.items()})
        self.hear()

    def hear(self) -> None:
        for update in self.subscription.due(self.published, self.revision):
            for one in update.resources:
                assert (one.name, one.version) not in self.solo_rejections, "refused bytes came again"
            self.inbox.append(update)

    @rule(content=st.dictionaries(st.sampled_from(NAMES), st.sampled_from("12x")))
    def publish(self, content: dict[str, str]) -> None:
        self.published = offered(*(resource(name, body, self.type_url) for name, body in content.items()))
        self.revision += 1
        self.hear()

    @precondition(lambda self: self.inbox)
    @rule()
    def answer(self) -> None:
        update = self.inbox.pop(0)
        if any(one.body.decode() in self.BAD for one in update.resources):
            if len(update.resources) == 1:
                self.solo_rejections.add((update.resources[0].name, update.resources[0].version))
            assert self.subscription.reject(update.nonce, "bad")
        else:
            for one in update.resources:
                if self.wildcard or one.name in self.wanted:
                    self.cache[one.name] = one
            for name in update.removed:
                self.cache.pop(name, None)
            assert self.subscription.acknowledge(update.nonce)
        self.hear()

    @rule()
    def stale(self) -> None:
        assert not self.subscription.acknowledge("no such nonce")
        self.hear()

    @rule()
    def reconnect(self) -> None:
        if self.wildcard or self.wanted:  # without a name the first request would be a wildcard
            self.connect()

    @rule(name=st.sampled_from(NAMES))
    def subscribe(self, name: str) -> None:
        self.wanted.add(name)
        self.subscription.subscribe([name])
        self.hear()

    @rule(name=st.sampled_from(NAMES))
    def unsubscribe(self, name: str) -> None:
        self.wanted.discard(name)
        if not self.wildcard:
            self.cache.pop(name, None)
        self.subscription.unsubscribe([name])
        self.hear()

    @invariant()
    def one_version_of_a_name_is_on_its_way(self) -> None:
        names = [one.name for update in self.inbox for one in update.resources]
        names += [name for update in self.inbox for name in update.removed]
        assert len(names) == len(set(names))

    def teardown(self) -> None:
        if not hasattr(self, "subscription"):
            return
        rounds = 0
        while self.inbox:
            self.answer()
            rounds += 1
            assert rounds < 50, "the conversation does not end"
        assert self.subscription.settled_through == self.revision
        for name in self.NAMES:
            if not self.wildcard and name not in self.wanted:
                continue
            published, held = self.published.get(name), self.cache.get(name)
            if published is None:
                assert held is None
            elif published.body.decode() in self.BAD:
                assert held is None or held.body.decode() not in self.BAD
            else:
                assert held == published


TestClient = Client.TestCase
TestClient.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
