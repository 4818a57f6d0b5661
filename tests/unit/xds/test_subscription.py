"""The subscription machine: one test per rule of the protocol, and a client that plays at random.

The rules: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lockgate.xds.serve.flight import Update
from lockgate.xds.serve.node_memory import TypeMemory
from lockgate.xds.serve.subscription import Subscription
from lockgate.xds.snapshot import CLUSTER, FILTER_CONFIG, SECRET, Resource


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


# Subscribing


@pytest.mark.parametrize("names", [(), ("*",)], ids=["no names at all", "the name *"])
def test_both_forms_of_the_wildcard_get_everything(names: tuple[str, ...]) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return"""
    talk = Talk(A1, B1)
    (first,) = talk.begin(*names)
    assert said([first]) == [(["a:1", "b:1"], [])]
    assert said(talk.ack(first)) == []
    assert said(talk.publish(A1, B1, C1)) == [(["c:1"], [])]


def test_an_empty_wildcard_is_answered_at_once() -> None:
    """Or the client would wait for its initial fetch timeout (15 s)."""
    talk = Talk()
    (answer,) = talk.begin()
    assert said([answer]) == [([], [])]
    assert said(talk.ack(answer)) == []
    assert said(talk.due()) == []


def test_names_get_only_themselves() -> None:
    talk = Talk(A1, B1)
    assert said(talk.begin("a")) == [(["a:1"], [])]


def test_a_name_that_does_not_exist_is_told_once_and_remembered() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#knowing-when-a-requested-resource-does-not-exist"""
    talk = Talk(A1)
    (absent,) = talk.begin("b")
    assert said([absent]) == [([], ["b"])]
    assert said(talk.ack(absent)) == []
    assert said(talk.publish(A2)) == []
    assert said(talk.publish(A2, B1)) == [(["b:1"], [])]


def test_the_absence_of_a_filter_config_is_told_only_where_it_is_held() -> None:
    """Envoy would never open a listener whose first answer for a slot is a removal."""
    filter_config = resource("a", type_url=FILTER_CONFIG)
    talk = Talk(type_url=FILTER_CONFIG)
    assert said(talk.begin("a")) == []
    assert talk.subscription.settled_through == 1
    talk.ack(only(talk.publish(filter_config)))
    assert said(talk.publish()) == [([], ["a"])]


def test_names_beside_the_wildcard_stay_when_it_goes() -> None:
    talk = Talk(A1, B1)
    (first,) = talk.begin()
    talk.ack(first)
    talk.subscription.subscribe(["a"])
    (again,) = talk.due()
    talk.ack(again)
    talk.subscription.unsubscribe(["*"])
    assert said(talk.publish(A2, resource("b", "2"))) == [(["a:2"], [])]


def test_after_a_name_was_ever_given_nothing_is_no_wildcard() -> None:
    talk = Talk(A1, B1)
    talk.ack(*talk.begin("a"))
    talk.subscription.unsubscribe(["a"])
    assert said(talk.publish(A2, B1)) == []
    assert talk.subscription.wanted() == frozenset()


def test_a_name_subscribed_to_again_is_sent_again() -> None:
    """DeltaDiscoveryRequest.resource_names_subscribe: the client may have dropped it in between."""
    talk = Talk(A1)
    talk.ack(*talk.begin("a"))
    talk.subscription.unsubscribe(["a"])
    talk.subscription.subscribe(["a"])
    (again,) = talk.due()
    assert said([again]) == [(["a:1"], [])]
    assert said(talk.ack(again)) == []
    talk.subscription.subscribe(["a"])
    assert said(talk.due()) == [(["a:1"], [])]


def test_a_resubscription_while_the_answer_is_on_its_way_gets_another() -> None:
    talk = Talk(A1)
    (first,) = talk.begin("a")
    talk.subscription.unsubscribe(["a"])
    talk.subscription.subscribe(["a"])
    assert said(talk.due()) == []
    assert said(talk.ack(first)) == [(["a:1"], [])]


@pytest.mark.parametrize("answered", [True, False])
def test_a_name_subscribed_to_again_gets_the_last_good_when_it_refuses_the_next(answered: bool) -> None:
    """The client may have dropped it in between, before or after its answer."""
    talk = Talk(A1)
    (first,) = talk.begin("a")
    if answered:
        talk.ack(first)
    talk.subscription.subscribe(["a"])
    if answered:
        (bad,) = talk.publish(A2)
    else:
        assert talk.publish(A2) == []
        (bad,) = talk.ack(first)
    assert said([bad]) == [(["a:2"], [])]
    (good,) = talk.nack(bad)
    assert said([good]) == [(["a:1"], [])]
    assert talk.ack(good) == []


def test_an_unsubscribed_name_is_silent() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#unsubscribing-from-resources"""
    talk = Talk(A1, B1)
    talk.ack(*talk.begin("a", "b"))
    talk.subscription.unsubscribe(["a"])
    assert said(talk.publish(A2, B1)) == []
    assert said(talk.publish(B1)) == []


@pytest.mark.parametrize(("published", "told"), [((A1,), (["a:1"], [])), ((), ([], ["a"]))])
def test_a_name_left_under_a_wildcard_is_told_once_more(
    published: tuple[Resource, ...], told: tuple[list[str], list[str]]
) -> None:
    """The client cannot know whether the wildcard includes it."""
    talk = Talk(*published)
    talk.ack(*talk.begin("*", "a"))
    talk.subscription.unsubscribe(["a"])
    (answer,) = talk.due()
    assert said([answer]) == [told]
    assert said(talk.ack(answer)) == []


# Changing and removing


def test_only_what_changed_is_sent() -> None:
    talk = Talk(A1, B1)
    talk.ack(*talk.begin())
    assert said(talk.publish(A2, B1)) == [(["a:2"], [])]


def test_equal_content_is_no_change() -> None:
    talk = Talk(A1)
    talk.ack(*talk.begin())
    assert said(talk.publish(resource("a"))) == []


def test_a_removed_resource_does_not_unsubscribe() -> None:
    talk = Talk(A1)
    talk.ack(*talk.begin("a"))
    (gone,) = talk.publish()
    assert said([gone]) == [([], ["a"])]
    talk.ack(gone)
    assert said(talk.publish(A1)) == [(["a:1"], [])]


def test_one_version_at_a_time_and_the_latest_next() -> None:
    talk = Talk(A1)
    (first,) = talk.begin("a")
    assert said(talk.publish(A2)) == []
    assert said(talk.publish(resource("a", "3"))) == []
    assert said(talk.ack(first)) == [(["a:3"], [])]


def test_a_change_taken_back_before_the_answer_is_not_sent() -> None:
    talk = Talk(A1)
    (first,) = talk.begin("a")
    talk.publish(A2)
    talk.publish(A1)
    assert said(talk.ack(first)) == []


# Reconnecting


def test_what_the_client_kept_is_not_sent_again() -> None:
    talk = Talk(A1, B1)
    assert said(talk.begin("a", "b", held={"a": A1.version, "b": "old"})) == [(["b:1"], [])]


def test_what_went_while_the_client_was_away_is_removed() -> None:
    talk = Talk(A1)
    assert said(talk.begin("a", "b", held={"a": A1.version, "b": B1.version})) == [([], ["b"])]
    wild = Talk(A1)
    assert said(wild.begin(held={"a": A1.version, "b": B1.version})) == [([], ["b"])]


def test_known_versions_are_no_subscription() -> None:
    talk = Talk(A1, B1)
    assert said(talk.begin("a", held={"b": "old"})) == [(["a:1"], [])]
    assert said(talk.publish(A1)) == []


# ACK and NACK


def test_a_stale_nonce_says_nothing() -> None:
    talk = Talk(A1)
    (first,) = talk.begin("a")
    assert not talk.subscription.acknowledge("99")
    assert not talk.subscription.reject("99", "no")
    assert talk.subscription.held_version("a") is None
    talk.ack(first)
    assert not talk.subscription.acknowledge(first.nonce)
    assert talk.subscription.held_version("a") == A1.version


def test_a_rejected_resource_is_not_held_and_not_sent_again() -> None:
    talk = Talk(A1)
    talk.ack(*talk.begin("a"))
    (bad,) = talk.publish(A2)
    assert said(talk.nack(bad, "bad regex")) == []
    assert talk.subscription.held_version("a") == A1.version
    assert talk.subscription.rejection(A2) == "bad regex"
    assert said(talk.publish(A2, B1)) == []
    assert said(talk.publish(resource("a", "3"))) == [(["a:3"], [])]


def test_going_back_to_the_last_good_version_sends_nothing() -> None:
    talk = Talk(A1)
    talk.ack(*talk.begin("a"))
    (bad,) = talk.publish(A2)
    talk.nack(bad)
    assert said(talk.publish(A1)) == []


def test_a_rejected_resource_that_goes_is_removed_where_something_is_held() -> None:
    talk = Talk(A1)
    talk.ack(*talk.begin("a"))
    talk.nack(only(talk.publish(A2)))
    assert said(talk.publish()) == [([], ["a"])]


def test_of_a_rejected_batch_each_is_offered_once_more_alone() -> None:
    talk = Talk(A1, B1)
    (batch,) = talk.begin()
    one, other = talk.nack(batch, "b is bad")
    assert said([one, other]) == [(["a:1"], []), (["b:1"], [])]
    assert said(talk.ack(one)) == []
    assert said(talk.nack(other, "b is bad")) == []
    assert (talk.subscription.rejection(A1), talk.subscription.rejection(B1)) == (None, "b is bad")


def test_filter_configs_travel_one_by_one() -> None:
    talk = Talk(resource("a", type_url=FILTER_CONFIG), resource("b", type_url=FILTER_CONFIG), type_url=FILTER_CONFIG)
    one, other = talk.begin("a", "b")
    assert said([one, other]) == [(["a:1"], []), (["b:1"], [])]
    assert said(talk.nack(one, "bad")) == [([], ["a"])]
    assert said(talk.ack(other)) == []


@pytest.mark.parametrize("type_url", [FILTER_CONFIG, SECRET])
def test_what_is_held_is_sent_again_after_what_was_refused(type_url: str) -> None:
    """Or Envoy confirms the refused one when a server that knows of nothing offers it next."""
    one, two = (resource("a", content, type_url) for content in "12")
    talk = Talk(one, type_url=type_url)
    talk.ack(*talk.begin("a"))
    again = only(talk.nack(only(talk.publish(two))))
    assert said([again]) == [(["a:1"], [])]
    assert talk.ack(again) == talk.publish(two) == talk.publish(one) == []
    lost = Talk(two, type_url=type_url, memory=talk.memory)
    assert lost.begin("a", held={"a": one.version}) == []
    three = resource("a", "3", type_url)
    lost.nack(only(lost.publish(three)))  # and the stream ends
    back = Talk(three, type_url=type_url, memory=talk.memory)
    assert said(back.begin("a", held={"a": one.version})) == [(["a:1"], [])]
    after = Talk(two, type_url=type_url)  # what is held is not known here, until it is published
    assert after.nack(only(after.begin("a", held={"a": one.version}))) == []
    again = only(after.publish(one))
    assert said([again]) == [(["a:1"], [])]
    assert after.ack(again) == []
    assert after.subscription.settled_through == after.revision


def test_of_a_refused_filter_config_with_nothing_before_it_nothing_stays_noted() -> None:
    """Likewise; but to an Envoy that begins anew it would be a first answer, so only on the stream of the refusal."""
    one, two = (resource("a", content, FILTER_CONFIG) for content in "12")
    talk = Talk(one, type_url=FILTER_CONFIG)
    gone = only(talk.nack(only(talk.begin("a"))))
    assert said([gone]) == [([], ["a"])]
    assert talk.subscription.settled_through == 1
    talk.publish(one)
    assert talk.subscription.settled_through == 1, "its answer is awaited"
    assert talk.ack(gone) == talk.publish(one) == []
    assert talk.subscription.settled_through == 3
    assert Talk(one, type_url=FILTER_CONFIG, memory=talk.memory).begin("a") == []
    assert said([talk.nack(only(talk.publish(two)))[0]]) == [([], ["a"])]
    lost = Talk(one, type_url=FILTER_CONFIG)
    lost.nack(only(lost.begin("a")))  # and the stream ends
    assert Talk(one, type_url=FILTER_CONFIG, memory=lost.memory).begin("a") == []
    better = Talk(one, type_url=FILTER_CONFIG)
    first = only(better.begin("a"))
    assert better.subscription.reject(first.nonce, "bad")
    good = only(better.publish(two))
    assert said([good]) == [(["a:2"], [])], "another one in its place will do"
    assert better.ack(good) == []


def test_a_fresh_client_of_the_same_node_gets_the_last_good_version() -> None:
    before = Talk(A1)
    before.ack(*before.begin("a"))
    before.nack(only(before.publish(A2)))
    after = Talk(A2, memory=before.memory)
    (first,) = after.begin("a")
    assert said([first]) == [(["a:1"], [])]
    assert said(after.ack(first)) == []


def test_what_a_node_once_took_and_now_refuses_is_not_sent_for_ever() -> None:
    """Another Envoy in the place of the one that took it."""
    before = Talk(A1)
    before.ack(only(before.begin("a")))
    after = Talk(A1, memory=before.memory)
    assert after.nack(only(after.begin("a"))) == []
    assert said(after.publish(A2)) == [(["a:2"], [])]


def test_a_fresh_client_learns_that_there_is_nothing_it_would_take() -> None:
    before = Talk(A1)
    before.nack(only(before.begin("a")))
    after = Talk(A1, memory=before.memory)
    assert said(after.begin("a")) == [([], ["a"])]


def test_what_a_client_came_back_with_is_its_last_good_version() -> None:
    talk = Talk(A1)
    talk.begin("a", held={"a": A1.version})
    talk.nack(only(talk.publish(A2)))
    fresh = Talk(A2, memory=talk.memory)
    assert said(fresh.begin("a")) == [(["a:1"], [])]


# How far the client is


def test_settled_when_everything_is_answered() -> None:
    talk = Talk(A1, B1)
    (first,) = talk.begin()
    assert talk.subscription.settled_through == 0
    talk.ack(first)
    assert talk.subscription.settled_through == 1
    (second,) = talk.publish(A2, B1)
    assert talk.subscription.settled_through == 1
    talk.nack(second)
    assert talk.subscription.settled_through == 2


def test_an_older_revision_is_settled_while_a_newer_one_is_not() -> None:
    talk = Talk(A1)
    (first,) = talk.begin("a")
    talk.publish(A2)
    (second,) = talk.ack(first)
    assert talk.subscription.settled_through == 1
    talk.publish(A2, B1)
    talk.ack(second)
    assert talk.subscription.settled_through == 3


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
