"""What becomes of a resource that a client refuses: not held, not sent again, and its last good version stays.

The rules: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

import pytest
from lockgate.tests.unit.xds.talk import A1, A2, B1, Talk, only, resource, said
from lockgate.xds.snapshot import FILTER_CONFIG, SECRET

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
