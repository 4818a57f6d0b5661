"""The order in which the maps are written, looked at after every single entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import Direction, DirectionPolicy, EndpointPolicy, Protocol, ResolvedRule
from lockgate.policies.identity import IPNetwork
from lockgate.policies.workload import Endpoint, IPAddress, Workload
from lockgate.redirect.map_changes import Table, diff
from lockgate.redirect.plan import DENY, DatapathPlan, Effect, Verdict
from lockgate.redirect.planner import Planner
from lockgate.tests.unit.redirect.programs import CLIENT, ORIGIN, SERVER

ROOT = {ip_network("0.0.0.0/0"): 9}
POD, NEW_POD = 5, 6  # interfaces
ADDRESSES = [ip_address("192.0.2.1"), ip_address("192.0.2.200"), ip_address("198.51.100.1")]
PREFIXES = [ip_network(text) for text in ("192.0.2.0/24", "192.0.2.1/32", "192.0.0.0/16", "198.51.100.1/32")]
IDENTITIES = [9, 80001, 80002, 80003]


def moments(current: DatapathPlan, wanted: DatapathPlan) -> Iterator[DatapathPlan]:
    """What the maps hold after each entry that is written."""
    held: dict[Table, dict[Any, Any]] = {
        Table.POLICY: {**current.policy},
        Table.ENDPOINTS: {**current.endpoints},
        Table.IPCACHE: {**current.ipcache},
    }

    def state() -> DatapathPlan:
        for table, entries in most.items():
            assert len(held[table]) <= entries
        return DatapathPlan(*(dict(held[table]) for table in (Table.POLICY, Table.ENDPOINTS, Table.IPCACHE)))

    changes = diff(current, wanted)
    most = {table: max(entries, len(held[table])) for table, entries in changes.most(current).items()}
    for write in changes.writes():
        for key, value in write.delta.put.items():
            held[write.table][key] = value
            yield state()
        for key in write.delta.gone:
            del held[write.table][key]
            yield state()
    assert (held[Table.POLICY], held[Table.ENDPOINTS], held[Table.IPCACHE]) == (
        wanted.policy,
        wanted.endpoints,
        wanted.ipcache,
    )


def pod(identity: int, address: str, ifindex: int) -> Endpoint:
    return Endpoint(Workload(str(identity), "default", ()), identity, (ip_address(address),), ifindex)


def policed(
    rules: tuple[ResolvedRule, ...], owners: Mapping[IPNetwork, int], *others: Endpoint, closed: bool = True
) -> DatapathPlan:
    ingress = EndpointPolicy(ingress=DirectionPolicy(closed, rules))
    pods = [(pod(SERVER, "10.0.0.2", POD), ingress), *((other, EndpointPolicy()) for other in others)]
    return Planner().plan(pods, {**ROOT, **owners})


def entering(plan: DatapathPlan, address: IPAddress) -> Effect:
    owner = plan.owner(address)
    assert owner is not None
    if not owner.identity:
        return DENY  # nobody may talk to it
    return plan.lookup(POD, Direction.INGRESS, owner.identity, Protocol.TCP, 80)


def rule(peers: set[int] | None, deny: bool = False) -> ResolvedRule:
    return ResolvedRule(ORIGIN, deny, None if peers is None else frozenset(peers), None)


@st.composite
def worlds(draw: st.DrawFn) -> DatapathPlan:
    owners = draw(st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from(IDENTITIES), max_size=4))
    known = sorted({9, *owners.values()})  # a policy speaks of identities that there are
    rules = draw(
        st.lists(st.builds(rule, st.none() | st.sets(st.sampled_from(known), min_size=1), st.booleans()), max_size=3)
    )
    return policed(tuple(rules), owners, closed=draw(st.booleans()))


@settings(max_examples=150, deadline=None)
@given(worlds(), worlds())
def test_no_moment_lets_in_whom_no_world_would(before: DatapathPlan, after: DatapathPlan) -> None:
    """Whoever gets another identity that was there before may be judged as that one by the policy before."""
    known = {owner.identity for owner in before.ipcache.values()}
    for moment in moments(before, after):
        for address in ADDRESSES:
            allowed = {entering(before, address), entering(after, address)}
            # On its way it may fall back to a wider prefix.
            passed = {owner.identity for held in (before, after, moment) if (owner := held.owner(address))}
            allowed |= {
                before.lookup(POD, Direction.INGRESS, each, Protocol.TCP, 80) for each in passed & known if each
            }
            found = entering(moment, address)
            assert found.verdict is Verdict.DENY or found in allowed


@settings(max_examples=60, deadline=None)
@given(worlds(), worlds(), worlds())
def test_what_a_failed_change_left_takes_no_room_from_the_next(
    before: DatapathPlan, failed: DatapathPlan, after: DatapathPlan
) -> None:
    for left in (before, *moments(before, failed)):
        used = {number for each in left.endpoints.values() for number in (each.ingress, each.egress)}
        for _ in moments(left, after):
            pass
        changes = diff(left, after)
        assert {key for key in left.policy if key.policy not in used} - after.policy.keys() == changes.strays
        assert changes.most(left)[Table.POLICY] <= len(
            {key for key in left.policy if key.policy in used} | after.policy.keys() | changes.meanwhile.keys()
        )


@settings(max_examples=60, deadline=None)
@given(worlds(), st.sampled_from(PREFIXES), st.booleans())
def test_a_prefix_that_is_told_apart_changes_nothing_meanwhile(
    before: DatapathPlan, prefix: IPNetwork, denied: bool
) -> None:
    """As when a second policy names a part of what another is about: who was let in and is afterwards is all the time,
    and who was not is not."""
    server = before.endpoints[POD]
    named = {network: owner.identity for network, owner in before.ipcache.items() if owner.identity in IDENTITIES}
    after = policed((rule(set(IDENTITIES) | {90001}, deny=denied),), {**named, prefix: 90001})
    assert after.endpoints[POD] != server
    for moment in moments(before, after):
        for address in ADDRESSES:
            one, other = entering(before, address), entering(after, address)
            if one == other:
                assert entering(moment, address) == one


def test_who_is_denied_as_anybody_outside_is_denied_while_it_gets_a_name() -> None:
    before = policed((rule(None), rule({9}, deny=True)), {})
    after = policed((rule(None), rule({9, 80001}, deny=True)), {PREFIXES[0]: 80001})
    for one, other in ((before, after), (after, before)):
        assert {entering(moment, ADDRESSES[0]).verdict for moment in moments(one, other)} == {Verdict.DENY}


def test_where_nobody_was_and_whose_forebears_differ_is_denied_meanwhile() -> None:
    before = policed((rule(None),), {ip_network("192.0.2.0/24"): 0})
    after = policed((rule(None), rule({80001}, deny=True)), {ip_network("192.0.2.1/32"): 80001})
    assert {entering(moment, ADDRESSES[0]).verdict for moment in moments(before, after)} <= {Verdict.DENY}
    before = policed((rule({80001}),), {PREFIXES[1]: 80001, PREFIXES[3]: 80002})
    after = policed((rule({80003}),), {PREFIXES[1]: 80003, PREFIXES[3]: 80003})
    seen = [entering(moment, ADDRESSES[2]).verdict for moment in moments(before, after)]
    assert seen.index(Verdict.ALLOW) == len(seen) - 1 - seen[::-1].index(Verdict.DENY) + 1
    # A state that was read from the kernel is not numbered, and leads to the same.
    assert diff(replace(before, numbered=None), after) == diff(before, after)


def test_a_new_endpoint_speaks_when_all_others_know_it() -> None:
    before = policed((rule(None), rule({CLIENT}, deny=True)), {})
    quarantined = pod(80001, "192.0.2.1", NEW_POD)
    after = policed((rule(None), rule({CLIENT, 80001}, deny=True)), {}, quarantined)
    for moment in moments(before, after):
        if NEW_POD in moment.endpoints:
            assert entering(moment, ADDRESSES[0]).verdict is Verdict.DENY
