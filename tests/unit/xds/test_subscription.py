"""The subscription machine: one test per rule of the protocol. What a client refuses has a file of its own.

The rules: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

import pytest
from lockgate.tests.unit.xds.talk import A1, A2, B1, C1, Talk, only, resource, said
from lockgate.xds.snapshot import FILTER_CONFIG, Resource

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
