"""Make before break, gated on ACK.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lockgate.tests.unit.xds.model_client import BAD, ModelClient, cluster, endpoints, is_bad, listener, route, secret
from lockgate.xds.serve.node_memory import NodeMemory
from lockgate.xds.serve.transition import target
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET, Resource, Snapshot

SHORT = {CLUSTER: "C", ENDPOINTS: "E", LISTENER: "L", ROUTE: "R", SECRET: "S"}


class Play:
    """A client that answers everything at once, and a log of what it was sent."""

    def __init__(self, *, delta: bool, memory: NodeMemory | None = None) -> None:
        self.client = ModelClient(memory or NodeMemory(), delta=delta)
        self.snapshot = Snapshot()
        self.revision = 0
        self.log: list[str] = []

    def publish(self, *resources: Resource, until: Resource | None = None) -> list[str]:
        """Plays to the end, or until the client has taken `until` and nobody has heard of it."""
        self.snapshot = Snapshot.of(resources)
        self.revision += 1
        return self.run(until)

    def run(self, until: Resource | None = None) -> list[str]:
        log: list[str] = []
        for _ in range(60):
            while self.client.outbox:
                self.client.hear_request()
            self.client.serve(self.snapshot, self.revision)
            if not self.client.inbox:
                return log
            response, resources, removed = self.client.inbox[0]
            kind = SHORT[response.type_url]
            held = self.client.held.get(response.type_url, {})
            log += [f"{kind} {each.name}" for each in resources if held.get(each.name) != each]
            log += [f"-{kind} {name}" for name in removed if name in held]
            self.client.look()
            if until in resources:
                return log
        raise AssertionError("the conversation does not end")

    @property
    def answered(self) -> bool:
        return self.client.stream.has_answered(self.snapshot, self.revision)


def chain(number: str, content: str = "1", **contents: str) -> list[Resource]:
    """A listener on a route on a cluster with endpoints; `contents` by letter."""
    told = {kind: contents.get(kind, content) for kind in "LRCE"}
    return [
        listener("l", told["L"], f"r{number}"),
        route(f"r{number}", told["R"], (f"c{number}",)),
        cluster(f"c{number}", told["C"]),
        endpoints(f"c{number}", told["E"]),
    ]


both_variants = pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])


@both_variants
def test_clusters_and_their_endpoints_before_what_leads_to_them(delta: bool) -> None:
    play = Play(delta=delta)
    assert play.publish(*chain("1")) == ["C c1", "E c1", "L l", "R r1"]
    assert play.answered


@both_variants
def test_a_move_to_another_cluster_adds_first_and_removes_last(delta: bool) -> None:
    play = Play(delta=delta)
    play.publish(*chain("1"))
    log = play.publish(*chain("2", L="2"))
    assert [each for each in log if each != "-R r1"] == ["C c2", "E c2", "L l", "R r2", "-C c1"]
    assert play.answered


@both_variants
def test_a_route_waits_for_the_new_cluster(delta: bool) -> None:
    play = Play(delta=delta)
    play.publish(*chain("1"))
    moved = [
        listener("l", "1", "r1"),
        route("r1", "2", ("c2",)),
        *(cluster("c2", "1"), endpoints("c2", "1")),
    ]
    assert play.publish(*moved) == ["C c2", "E c2", "R r1", "-C c1"]


@both_variants
def test_a_secret_goes_before_what_uses_its_new_version(delta: bool) -> None:
    play = Play(delta=delta)

    def world(content: str) -> list[Resource]:
        return [*chain("1")[1:], listener("l", content, "r1", "s"), secret("s", content)]

    play.publish(*world("1"))
    assert play.publish(*world("2")) == ["S s", "L l"]


@both_variants
def test_endpoints_come_after_their_cluster_and_again_when_it_changes(delta: bool) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-warming"""
    play = Play(delta=delta)
    play.publish(*chain("1"))
    sent: list[str] = []
    serve = play.client.record.sent

    def recorded(type_url: str, nonce: str, resources: tuple[Resource, ...], removed: tuple[str, ...]) -> None:
        sent.extend(SHORT[type_url] for _ in resources)
        serve(type_url, nonce, resources, removed)

    play.client.record.sent = recorded  # type: ignore[method-assign]
    play.publish(*chain("1", C="2", E="1"))
    assert sent == ["C", "E"]
    sent.clear()
    play.publish(*chain("1", C="3", E="2"))
    assert sent == ["C", "E"]
    assert play.answered


@both_variants
def test_a_refusal_stops_what_depends_on_it_and_only_that(delta: bool) -> None:
    """The last good set stays, whole; the rest goes on."""
    play = Play(delta=delta)
    other = [cluster("c9", "1"), endpoints("c9", "1"), listener("l9", "1", "r9"), route("r9", "1", ("c9",))]
    play.publish(*chain("1"), *other)
    bad = [*chain("2", L="2", C=BAD)]
    changed = [*other[:2], listener("l9", "2", "r9"), route("r9", "2", ("c9",))]
    log = play.publish(*bad, *changed)
    assert set(log) == {"C c2", "L l9", "R r9"}
    assert "c1" in play.client.held[CLUSTER] and "r1" in play.client.held[ROUTE]
    assert play.answered
    assert play.client.stream.rejections(play.snapshot) == {(CLUSTER, "c2"): "refused"}
    assert play.publish(*bad, *changed) == []
    mended = play.publish(*chain("2", L="2"), *changed)  # recovers by itself
    assert [each for each in mended if each != "-R r1"] == ["C c2", "E c2", "L l", "R r2", "-C c1"]


@both_variants
def test_a_fresh_client_gets_the_whole_last_good_set(delta: bool) -> None:
    memory = NodeMemory()
    play = Play(delta=delta, memory=memory)
    play.publish(*chain("1"))
    bad = chain("2", L="2", C=BAD)
    play.publish(*bad)
    fresh = Play(delta=delta, memory=memory)
    assert fresh.publish(*bad) == ["C c1", "E c1", "L l", "R r1"]
    assert fresh.answered


@both_variants
def test_what_a_refused_listener_names_is_not_waited_for(delta: bool) -> None:
    play = Play(delta=delta)
    assert play.publish(*chain("1", L=BAD)) == ["C c1", "E c1", "L l"]
    assert play.answered
    assert play.client.stream.rejections(play.snapshot) == {(LISTENER, "l"): "refused"}


@both_variants
@pytest.mark.parametrize(("listener_is", "route_is"), [(BAD, "1"), ("2", BAD)])
def test_what_an_irreplaceable_listener_names_stays_and_is_not_waited_for(
    delta: bool, listener_is: str, route_is: str
) -> None:
    """Its first route was refused, so it is not known to be good; and then it, or its next route, is refused."""
    play = Play(delta=delta)
    play.publish(*chain("1", R=BAD)[1:], listener("l", "1", "r1", "s"), secret("s", "1"))
    assert play.answered
    play.publish(
        listener("l", listener_is, "r1"),
        route("r1", route_is, ("c1", "c2")),
        *(each for name in ("c1", "c2") for each in (cluster(name, "1"), endpoints(name, "1"))),
    )
    assert "s" in play.client.held[SECRET]
    assert play.answered


@both_variants
def test_what_was_on_its_way_is_the_last_good_version_once_it_is_taken(delta: bool) -> None:
    play = Play(delta=delta)
    play.publish(*chain("1", C=BAD)[2:])
    play.client.serve(Snapshot.of(chain("1")[2:]), play.revision)
    assert play.publish(*chain("1", C=BAD)) == ["C c1", "E c1", "L l", "R r1"]
    assert play.answered


@both_variants
def test_a_cluster_of_before_stays_where_the_endpoints_of_the_next_are_refused(delta: bool) -> None:
    play = Play(delta=delta)
    play.publish(*chain("1"))
    play.publish(listener("l", "1", "r1"), route("r1", "2", ("c2",)), cluster("c2", "1"), endpoints("c2", BAD))
    assert "c1" in play.client.held[CLUSTER] and "c1" in play.client.held[ENDPOINTS]
    assert play.answered


@both_variants
@pytest.mark.parametrize("lost", [False, True])
def test_what_a_client_that_comes_back_still_uses_stays(delta: bool, lost: bool) -> None:
    """It has a route that is published no more, and keeps its listener: the endpoints of the next route's cluster are
    refused. Also where its answer to that route was lost."""
    play = Play(delta=delta)
    play.publish(*chain("1"))
    if lost:
        moved = [listener("l", "1", "r1"), route("r1", "2", ("c2",)), cluster("c2", "1"), endpoints("c2", "1")]
        play.publish(*moved, until=moved[1])
    play.client.connect()
    play.publish(*chain("3", L="2", E=BAD))
    assert play.client.held[ROUTE]["r1"].references <= {(CLUSTER, name) for name in play.client.held[CLUSTER]}
    assert play.answered


@both_variants
def test_a_response_that_was_lost_makes_nothing_of_before_unknown(delta: bool) -> None:
    """Nor does a secret that was refused, and with it the cluster as a last good one."""
    play = Play(delta=delta)
    play.publish(
        listener("l", "1", "r1"),
        route("r1", "1", ("c1",)),
        cluster("c1", "1", "s"),
        endpoints("c1", "1"),
        secret("s", BAD),
    )
    play.client.serve(Snapshot.of(chain("2", L="2")), 2)
    play.client.connect()
    log = play.publish(*chain("2", L="2"))
    assert [each for each in log if each != "-R r1"] == ["C c2", "E c2", "L l", "R r2", "-C c1"]
    assert play.answered


@both_variants
def test_what_the_snapshot_itself_still_names_is_not_taken_away(delta: bool) -> None:
    play = Play(delta=delta)
    play.publish(*chain("1"))
    assert play.publish(*chain("1")[:2]) == []
    assert set(play.client.held[CLUSTER]) == {"c1"}


def test_a_server_that_has_seen_nothing_takes_nothing_away_blindly() -> None:
    """It cannot know what the resources of an earlier server name."""
    play = Play(delta=True)
    play.publish(*chain("1"))
    client = play.client
    client.memory = NodeMemory()
    client.connect()
    play.snapshot, play.revision = Snapshot(), 0
    assert play.publish(*chain("2", L="2")) == ["C c2", "E c2", "L l", "R r2", "-C c1"]


def test_the_target_is_the_snapshot_where_nothing_was_refused() -> None:
    snapshot = Snapshot.of(chain("1"))
    assert target(snapshot, NodeMemory()) is snapshot


# The proof: any worlds, any speed, any refusals, any interruptions


@st.composite
def worlds(draw: st.DrawFn) -> list[Resource]:
    """Everything that is named is there."""
    contents = st.sampled_from(["1", "2", "3", BAD])
    secrets = st.sampled_from(["", "", "s0", "s1"])
    found: dict[tuple[str, str], Resource] = {}

    def add(resource: Resource) -> None:
        found.setdefault((resource.type_url, resource.name), resource)

    def add_cluster(name: str) -> None:
        if (CLUSTER, name) not in found:
            uses = draw(secrets)
            add(cluster(name, draw(contents), uses))
            add(endpoints(name, draw(contents)))
            if uses:
                add(secret(uses, draw(contents)))

    for name in draw(st.sets(st.sampled_from(["l0", "l1"]))):
        uses, route_name = draw(secrets), draw(st.sampled_from(["r0", "r1", "r2"]))
        add(listener(name, draw(contents), route_name, uses))
        if uses:
            add(secret(uses, draw(contents)))
        if (ROUTE, route_name) not in found:
            clusters = tuple(sorted(draw(st.sets(st.sampled_from(["c0", "c1", "c2"]), min_size=1))))
            add(route(route_name, draw(contents), clusters))
            for each in clusters:
                add_cluster(each)
    for each in draw(st.sets(st.sampled_from(["c0", "c1", "c2"]), max_size=1)):
        add_cluster(each)
    return list(found.values())


class Conversation(RuleBasedStateMachine):
    """No response names what the client has not ACKed, nothing is taken away that is named, and it all ends well.

    `Record` judges every response when it leaves, `ModelClient.check` the client after each step.
    """

    @initialize(delta=st.booleans())
    def start(self, delta: bool) -> None:
        self.snapshot, self.revision = Snapshot(), 1
        self.client = ModelClient(NodeMemory(), delta=delta)

    @rule(world=worlds())
    def publish(self, world: list[Resource]) -> None:
        self.snapshot = Snapshot.of(world)
        self.revision += 1
        self.client.serve(self.snapshot, self.revision)

    @precondition(lambda self: self.client.outbox)
    @rule(count=st.integers(1, 4))
    def the_server_hears(self, count: int) -> None:
        for _ in range(min(count, len(self.client.outbox))):
            self.client.hear_request()
            self.client.serve(self.snapshot, self.revision)

    @precondition(lambda self: self.client.inbox)
    @rule(count=st.integers(1, 4))
    def the_client_looks(self, count: int) -> None:
        for _ in range(min(count, len(self.client.inbox))):
            self.client.look()

    @rule()
    def everything_is_answered(self) -> None:
        self.settle()

    @rule()
    def the_stream_breaks(self) -> None:
        self.client.connect()

    @rule()
    def the_client_restarts(self) -> None:
        self.client.restart()

    @precondition(lambda self: self.client.delta)
    @rule()
    def the_server_restarts(self) -> None:
        """A state-of-the-world client cannot say what it came back with, so there the next response is all it has."""
        self.client.memory = NodeMemory()
        self.client.connect()

    def settle(self) -> None:
        for _ in range(400):
            while self.client.outbox:
                self.client.hear_request()
                self.client.serve(self.snapshot, self.revision)
            if not self.client.inbox:
                break
            self.client.look()
        else:
            raise AssertionError("the conversation does not end")
        self.client.serve(self.snapshot, self.revision)
        assert not self.client.inbox

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        self.settle()
        assert self.client.stream.has_answered(self.snapshot, self.revision)
        if not any(map(is_bad, self.everything())):
            for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINTS, SECRET):
                assert self.client.held.get(type_url, {}) == dict(self.snapshot.of_type(type_url)), type_url

    def everything(self) -> Iterable[Resource]:
        return (each for named in self.snapshot.types.values() for each in named.values())


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=80, stateful_step_count=30, deadline=None, derandomize=True)
