"""The state-of-the-world face. https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lockgate.xds.serve.discovery import WholeRequest, WholeResponse
from lockgate.xds.serve.node_memory import NodeMemory
from lockgate.xds.serve.sotw import SotwStream
from lockgate.xds.snapshot import CLUSTER, LISTENER, ROUTE, SECRET, Resource, Snapshot


class Talk:
    """A client of one type that answers with what it was told last."""

    def __init__(self, type_url: str, *names: str, memory: NodeMemory | None = None) -> None:
        self.type_url = type_url
        self.names = names
        self.stream = SotwStream(memory or NodeMemory())
        self.snapshot = Snapshot()
        self.revision = 0
        self.stream.receive(WholeRequest(type_url, names=names))

    def publish(self, **contents: str) -> list[WholeResponse]:
        self.snapshot = Snapshot.of(Resource(self.type_url, name, body.encode()) for name, body in contents.items())
        self.revision += 1
        return self.due()

    def due(self) -> list[WholeResponse]:
        return self.stream.due(self.snapshot, self.revision)

    def want(self, *names: str, nonce: str) -> list[WholeResponse]:
        self.names = names
        self.stream.receive(WholeRequest(self.type_url, names=names, nonce=nonce))
        return self.due()

    def ack(self, response: WholeResponse) -> list[WholeResponse]:
        return self.want(*self.names, nonce=response.nonce)

    def nack(self, response: WholeResponse, error: str = "bad") -> list[WholeResponse]:
        told = self.stream.receive(WholeRequest(self.type_url, names=self.names, nonce=response.nonce, error=error))
        assert told == error
        return self.due()

    def rejections(self) -> dict[str, str]:
        return {name: text for (_, name), text in self.stream.rejections(self.snapshot).items()}


def said(responses: list[WholeResponse]) -> list[list[str]]:
    return [[f"{one.name}:{one.body.decode()}" for one in response.resources] for response in responses]


def only(responses: list[WholeResponse]) -> WholeResponse:
    (response,) = responses
    return response


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_a_removal_is_an_absence_and_comes_after_the_changes(type_url: str) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#deleting-resources"""
    talk = Talk(type_url)
    talk.ack(only(talk.publish(a="1", b="1")))
    changed = only(talk.publish(b="2"))
    assert said([changed]) == [["a:1", "b:2"]]
    gone = only(talk.ack(changed))
    assert said([gone]) == [["b:2"]]
    assert talk.ack(gone) == []
    assert said(talk.publish()) == [[]]  # a response without resources deletes them all


def test_removals_of_other_types_are_not_told() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#deleting-resources"""
    talk = Talk(ROUTE, "a", "b")
    talk.ack(only(talk.publish(a="1", b="1")))
    assert talk.publish(a="1") == []
    assert talk.stream.has_answered(talk.snapshot, talk.revision)
    assert said(talk.publish(a="1", b="2")) == [["b:2"]]


def test_legacy_wildcard_and_names() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
    Its four requests."""
    talk = Talk(CLUSTER)
    first = only(talk.publish(A="1", B="1"))
    assert said([first]) == [["A:1", "B:1"]]
    talk.ack(first)
    named = only(talk.want("*", "A", nonce=first.nonce))  # newly requested resources are sent again
    assert said([named]) == [["A:1", "B:1"]]
    talk.ack(named)
    assert talk.want("A", nonce=named.nonce) == []
    changed = only(talk.publish(A="2", B="2"))
    assert said([changed]) == [["A:2"]]
    talk.ack(changed)
    assert talk.want(nonce=changed.nonce) == []
    assert talk.publish(A="3", B="3") == []


def test_a_stale_nonce_is_void() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-updates
    The hint that crosses an update on its way."""
    talk = Talk(ROUTE, "a")
    first = only(talk.publish(a="1", b="1"))
    talk.ack(first)
    second = only(talk.publish(a="2", b="1"))
    assert talk.want("a", "b", nonce=first.nonce) == []  # crossed
    assert not talk.stream.has_answered(talk.snapshot, talk.revision)
    assert said(talk.ack(second)) == [["b:1"]]


@pytest.mark.parametrize("type_url", [CLUSTER, ROUTE])
def test_what_is_named_anew_while_it_is_on_its_way_is_sent_again(type_url: str) -> None:
    """Whether the client wanted it when it took the response in is not known: also with something new beside it,
    which then is one of two that a refusal may mean."""
    talk = Talk(type_url, "a", "b")
    first = only(talk.publish(a="1"))
    assert talk.want("b", nonce="before") == talk.want("a", "b", nonce="before") == []
    talk.publish(a="1", b="x")
    both = only(talk.ack(first))
    assert said([both]) == [["a:1", "b:x"]]
    one = only(talk.nack(both, "b is bad"))
    assert said([one]) == [["a:1"]]
    other = only(talk.ack(one))
    assert said([other])[0][-1] == "b:x"
    assert talk.nack(other, "b is bad") == []
    assert talk.rejections() == {"b": "b is bad"}


@pytest.mark.parametrize("before", [{}, {"a": "0", "c": "1"}])
def test_a_cluster_that_was_named_anew_while_on_its_way_leaves(before: dict[str, str]) -> None:
    """The client took it from the response that it answers, although it did not name it in between, and refuses the
    next version. Also where only the other cluster of that response was new."""
    talk = Talk(CLUSTER, "a", "c")
    talk.ack(only(talk.publish(**before)))
    first = only(talk.publish(a="1", c="1"))
    assert talk.want("a", nonce="before") == []
    talk.publish(a="1", c="x")
    bad = only(talk.want("a", "c", nonce=first.nonce))
    assert said([bad]) == [["a:1", "c:x"]]
    assert talk.publish(a="1") == []
    gone = only(talk.nack(bad, "c is bad"))
    assert said([gone]) == [["a:1"]]
    assert talk.ack(gone) == []


def test_what_a_client_may_hold_and_refuses_is_not_told_beside_others() -> None:
    talk = Talk(CLUSTER, "a", "c")
    first = only(talk.publish(a="1", c="1"))
    assert talk.want("a", nonce="before") == []
    again = only(talk.want("a", "c", nonce=first.nonce))
    assert said([again]) == [["a:1", "c:1"]]
    assert talk.nack(again, "c is bad") == []
    assert said(talk.publish(a="2", c="1")) == [["a:2"]]


def test_the_next_response_waits_for_the_answer_and_is_the_latest() -> None:
    talk = Talk(CLUSTER)
    first = only(talk.publish(a="1"))
    assert [talk.publish(a=body) for body in "234"] == [[], [], []]
    assert not talk.stream.has_answered(talk.snapshot, 1)
    assert said(talk.ack(first)) == [["a:4"]]


def test_a_nack_keeps_the_last_good_and_its_bytes_never_come_again() -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ack-and-nack-semantics-summary"""
    talk = Talk(CLUSTER)
    talk.ack(only(talk.publish(a="1", b="1")))
    assert talk.nack(only(talk.publish(a="x", b="1")), "a is bad") == []
    assert talk.rejections() == {"a": "a is bad"}
    assert said(talk.publish(a="x", b="2")) == [["a:1", "b:2"]]


def test_of_a_rejected_batch_each_is_offered_once_more_among_what_is_good() -> None:
    talk = Talk(CLUSTER)
    talk.ack(only(talk.publish(a="1", b="1", c="1")))
    batch = only(talk.publish(a="2", b="x", c="1"))
    one = only(talk.nack(batch, "b is bad"))
    assert said([one]) == [["a:2", "b:1", "c:1"]]
    other = only(talk.ack(one))
    assert said([other]) == [["a:2", "b:x", "c:1"]]
    assert talk.nack(other, "b is bad") == []
    assert talk.rejections() == {"b": "b is bad"}


def test_the_version_is_that_of_the_contents() -> None:
    """Equal on every server and after every restart; another one when anything changes."""
    versions = [only(Talk(CLUSTER).publish(**contents)).version for contents in ({"a": "1"}, {"a": "1"}, {"a": "2"})]
    assert versions[0] == versions[1] != versions[2]


def test_a_client_that_comes_back_is_told_everything() -> None:
    """What it kept is not known, only a version of all of it together."""
    memory = NodeMemory()
    before = Talk(CLUSTER, memory=memory)
    before.ack(only(before.publish(a="1")))
    assert said(Talk(CLUSTER, memory=memory).publish(a="1")) == [["a:1"]]


def test_secrets_are_sent_again_on_reconnect() -> None:
    """In this variant a client cannot say which of them it holds.
    https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
    https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ack-nack-and-resource-type-instance-version"""
    memory = NodeMemory()
    before = Talk(SECRET, "a", "b", memory=memory)
    first = only(before.publish(a="1", b="1"))
    before.ack(first)
    back = Talk(SECRET, "a", "b", memory=memory)
    again = only(back.publish(a="1", b="1"))
    assert said([again]) == [["a:1", "b:1"]]
    assert back.ack(again) == []


def test_a_refusal_of_before_a_restart_is_met_once_more_and_harms_nothing() -> None:
    """What a node refused is remembered by the server's process. The next one offers it once, is refused once, and the
    client keeps what it had."""
    before = Talk(ROUTE, "a")
    before.ack(only(before.publish(a="good")))
    assert before.nack(only(before.publish(a="bad"))) == []
    after = Talk(ROUTE, "a", memory=NodeMemory())  # another process: nothing is remembered
    offered = only(after.publish(a="bad"))
    assert after.nack(offered) == [], "no good version is known, and absence is not told: the client keeps its own"
    assert after.rejections() == {"a": "bad"}
    assert after.publish(a="bad") == []


class Client(RuleBasedStateMachine):
    """A client at random. In the end it holds what is published and not refused."""

    NAMES = ("a", "b", "c")
    BAD = "x"

    @initialize(type_url=st.sampled_from([CLUSTER, ROUTE]), wildcard=st.booleans())
    def start(self, type_url: str, wildcard: bool) -> None:
        self.type_url = type_url
        self.names: tuple[str, ...] = () if wildcard else ("a", "b")
        self.memory = NodeMemory()
        self.published: Mapping[str, str] = {}
        self.talk: Talk | None = None
        self.refused: set[tuple[str, str]] = set()
        self.held: dict[str, str] = {}
        self.taken: dict[str, str] = {}  # on this stream, and named ever since
        self.anew: set[str] = set()  # named while a response was on its way: told again after it
        self.connect()

    @rule()
    def connect(self) -> None:
        self.talk = Talk(self.type_url, *self.names, memory=self.memory)
        self.explicit = bool(self.names)
        self.taken, self.anew = {}, set()
        self.inbox = self.talk.publish(**self.published)

    @rule(contents=st.dictionaries(st.sampled_from(NAMES), st.sampled_from("12x")))
    def publish(self, contents: dict[str, str]) -> None:
        assert self.talk is not None
        self.published = contents
        self.hear(self.talk.publish(**contents))

    @precondition(lambda self: self.inbox)
    @rule()
    def answer(self) -> None:
        assert self.talk is not None
        response = self.inbox.pop()
        contents = {one.name: one.body.decode() for one in response.resources}
        new = {each for each in contents.items() if self.taken.get(each[0]) != each[1]}
        assert not new & self.refused, "refused bytes came again"
        anew, self.anew = self.anew, set()
        if self.BAD in contents.values():
            if len(new) == 1:
                self.refused |= new
            self.hear(self.talk.nack(response))
            return
        if self.type_url == CLUSTER:
            self.held, self.taken = {}, {}
        wanted = {name: body for name, body in contents.items() if not self.names or name in self.names}
        self.held |= wanted
        self.taken |= {name: body for name, body in wanted.items() if name not in anew}
        self.hear(self.talk.ack(response))

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def want(self, names: set[str]) -> None:
        assert self.talk is not None
        if self.explicit:
            self.anew |= names.difference(self.names) if self.inbox else set()
            self.names = tuple(sorted(names))
            self.held = {name: body for name, body in self.held.items() if name in names}
            self.taken = {name: body for name, body in self.taken.items() if name in names}
            nonce = self.talk.stream._nonces.get(self.type_url, "") if not self.inbox else "one before"
            self.hear(self.talk.want(*self.names, nonce=nonce))

    def hear(self, responses: list[WholeResponse]) -> None:
        self.inbox += responses
        assert len(self.inbox) <= 1, "a response before the answer to the last"

    def teardown(self) -> None:
        if getattr(self, "talk", None) is None:
            return
        assert self.talk is not None
        rounds = 0
        while self.inbox:
            self.answer()
            rounds += 1
            assert rounds < 50, "the conversation does not end"
        for name in self.names or self.NAMES:
            published, held = self.published.get(name), self.held.get(name)
            if published is None:
                assert held is None or self.type_url != CLUSTER
            elif published == self.BAD:
                assert held != self.BAD
            else:
                assert held == published


TestClient = Client.TestCase
TestClient.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
