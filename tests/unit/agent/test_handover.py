"""What proxies carry is remembered by the identities it was made with, as long as it lives."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import ip_address, ip_network

from lockgate.agent.force.handover import Handover
from lockgate.policies import World, parse_policies
from lockgate.policies.identity import Reserved, endpoint_of
from lockgate.policies.workload import Workload
from lockgate.redirect.plan import DatapathPlan, Owner
from lockgate.redirect.proxy_sockets import Carried
from lockgate.redirect.socket_diag import FoundSocket

API, NEAR, FAR = map(ip_address, ("10.0.0.2", "192.0.2.1", "198.51.100.1"))
WIDE, MIDDLE, NARROW = "192.0.2.0/24", "192.0.2.0/28", "192.0.2.1/32"


def world(*allowed: str, named: tuple[str, ...] = (WIDE, MIDDLE, NARROW)) -> World:
    """The API may be asked by the prefixes; another workload's policy says that all of them are somebody."""
    texts = []
    for app, prefixes in (("api", allowed), ("other", named)):
        texts.append(
            f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {app}}}\n"
            f"spec:\n  endpointSelector: {{matchLabels: {{app: {app}}}}}\n  ingress:\n"
        )
        for prefix in prefixes:
            texts[-1] += (
                f'  - fromCIDR: ["{prefix}"]\n    toPorts: [{{ports: [{{port: "80", protocol: TCP}}], '
                f'rules: {{http: [{{path: "/{prefix}"}}]}}}}]\n'
            )
    api = replace(endpoint_of(Workload("api", "default", (("app", "api"),), ips=(API,))), ifindex=2)
    other = endpoint_of(Workload("other", "default", (("app", "other"),), ips=(ip_address("10.0.0.3"),)))
    parsed = parse_policies("\n---\n".join(texts).encode(), "p.yaml")
    assert parsed.ok, parsed.problems
    return World.of(parsed.policies, [api, other])


def plan(of: World, **near: str) -> DatapathPlan:
    """The ipcache; `near` says as what NEAR counts, if not as the world has it."""
    owners = {prefix: Owner(identity) for prefix, identity in of.ipcache.items()}
    for prefix in near.values():
        owners[ip_network(NARROW)] = Owner(of.ipcache[ip_network(prefix)])
    return DatapathPlan(ipcache=owners)


LIVE = Carried(NEAR, 40000, API, 80, True, FoundSocket(2, b"near"))
UPSTREAM = Carried(NEAR, 50000, API, 80, False, FoundSocket(2, b"leg"))
OTHERS = Carried(FAR, 40000, API, 80, True, FoundSocket(2, b"far"))
ALL = (LIVE, UPSTREAM, OTHERS)


def test_nothing_has_changed() -> None:
    handover, same = Handover(), world(WIDE)
    handover.begins(plan(same))
    assert handover.settles(plan(same))
    assert handover.over(ALL, same, same, plan(same)) == ()


def test_plans_of_changes_that_are_over_are_not_kept() -> None:
    handover, same = Handover(), world(WIDE)
    before = plan(same)
    held = sys.getrefcount(before)
    handover.begins(before)
    assert sys.getrefcount(before) > held
    assert handover.settles(plan(same))
    assert sys.getrefcount(before) == held


def test_rules_about_others_end_what_the_client_made_and_no_more() -> None:
    handover, before, after = Handover(), world(WIDE), world(WIDE, NARROW)
    handover.begins(plan(before, near=NARROW))
    assert not handover.settles(plan(after, near=WIDE))
    assert handover.over(ALL, before, after, plan(after, near=WIDE)) == (LIVE,)


def test_what_goes_on_is_judged_by_who_it_was_until_it_is_gone() -> None:
    handover, first, second = Handover(), world(WIDE), world(NARROW)
    handover.begins(plan(first, near=NARROW))
    as_wide = plan(first, near=WIDE)
    assert handover.over(ALL, first, first, as_wide) == (), "the rules about both are the same"
    # Nobody moves now, but the rules about who it was are not about who it is.
    handover.begins(as_wide)
    now = plan(second, near=WIDE)
    assert not handover.settles(now)
    assert handover.over(ALL, first, second, now) == (LIVE,)
    assert handover.over((OTHERS,), second, second, now) == ()
    assert handover.settles(now), "nothing is left of it"


def test_what_is_over_stays_over_until_it_is_gone() -> None:
    handover, before, after = Handover(), world(WIDE), world(WIDE, NARROW)
    handover.begins(plan(before, near=NARROW))
    now = plan(after, near=WIDE)
    for _ in range(3):
        assert handover.over(ALL, before, after, now) == (LIVE,)
        handover.begins(now)
        assert not handover.settles(now)


def test_a_change_that_failed_half_way_counts_from_where_it_began() -> None:
    handover, before, after = Handover(), world(WIDE), world(WIDE, NARROW)
    now = plan(after, near=WIDE)
    handover.begins(plan(before, near=NARROW))
    handover.begins(now)  # it had been written when something else failed
    assert handover.over(ALL, before, after, now) == (LIVE,)


def test_an_address_in_other_hands_takes_no_leg_along() -> None:
    handover, same = Handover(), world(WIDE)
    before = plan(same)
    handover.begins(before)
    after = DatapathPlan(ipcache={**before.ipcache, ip_network(NARROW): Owner(70_000)})
    assert set(handover.over(ALL, same, same, after)) == {LIVE, UPSTREAM}


def test_what_a_later_agent_is_told_counts_as_if_it_had_been_there() -> None:
    first, second = world(WIDE), world(NARROW)
    as_wide = plan(first, near=WIDE)
    made = (first.ipcache[ip_network(NARROW)], endpoint_of(Workload("api", "default", (("app", "api"),))).identity)
    assert made[1] == as_wide.ipcache[ip_network(API)].identity
    for told in ({LIVE: made}, {}):
        handover = Handover()
        handover.recall(told, as_wide)
        handover.begins(as_wide)
        assert handover.over(ALL, None, first, as_wide) == (), "the rules about both are the same"
        assert handover.settles(as_wide) is not bool(told)
        now = plan(second, near=WIDE)
        assert handover.over(ALL, first, second, now) == ((LIVE,) if told else ())


def test_what_an_earlier_agent_had_no_time_to_end_is_over() -> None:
    """It had written the maps, and died."""
    before, after = world(WIDE), world(WIDE, NARROW)
    now = plan(after, near=WIDE)
    handover = Handover()
    identities = plan(before, near=NARROW).ipcache
    handover.recall({LIVE: (identities[ip_network(NARROW)].identity, identities[ip_network(API)].identity)}, now)
    handover.begins(now)
    assert handover.over(ALL, None, after, now) == (LIVE,)


def test_who_was_given_the_nodes_address_goes_on_under_the_next_agent() -> None:
    """The kernel knows that a pod has made it; to both agents its address is the node's."""
    now = world(WIDE)
    held = plan(now)
    held = DatapathPlan(ipcache={**held.ipcache, ip_network(NARROW): Owner(Reserved.HOST)})
    pod, api = (held.ipcache[ip_network(address)].identity for address in ("10.0.0.3", API))
    handover = Handover()
    handover.recall({LIVE: (pod, api)}, held)
    handover.begins(held)
    assert handover.over(ALL, None, now, held) == ()
    moved = DatapathPlan(ipcache={**held.ipcache, ip_network(NARROW): Owner(pod)})
    handover.begins(held)
    assert handover.over(ALL, now, now, moved) == (LIVE, UPSTREAM)
