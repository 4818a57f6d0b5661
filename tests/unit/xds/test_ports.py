from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import LAST_PORT, PortSpan, Protocol, ResolvedRule, RuleOrigin
from lockgate.xds.compile.ports import decimal_regex, port_groups

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "p", "spec", "p.yaml", 1)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    first = draw(st.integers(0, LAST_PORT))
    return first, draw(st.one_of(st.just(first), st.integers(first, LAST_PORT)))


def _rule(*ports: PortSpan) -> ResolvedRule:
    return ResolvedRule(ORIGIN, False, None, ports)


@settings(deadline=None)
@given(spans())
def test_the_regex_holds_exactly_the_ports(span: tuple[int, int]) -> None:
    compiled = re.compile(decimal_regex((span,)))
    first, last = span
    for port in {0, first - 1, first, first + 1, (first + last) // 2, last - 1, last, last + 1, first * 10, last // 10}:
        if port >= 0:
            assert (compiled.fullmatch(str(port)) is not None) == (first <= port <= last), (port, span)
    assert compiled.fullmatch("0" + str(first)) is None


def test_every_port_of_a_range_by_hand() -> None:
    for first, last in ((0, 1100), (995, 2003), (8000, 8100), (1024, LAST_PORT), (0, LAST_PORT)):
        compiled = re.compile(decimal_regex(((first, last),)))
        held = [port for port in range(LAST_PORT + 2) if compiled.fullmatch(str(port))]
        assert held == list(range(first, last + 1))


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(spans(), st.sampled_from([Protocol.TCP, Protocol.UDP])), max_size=3), max_size=4))
def test_groups_say_what_the_rules_say(listed: list[list[tuple[tuple[int, int], Protocol]]]) -> None:
    rules = [_rule(*(PortSpan(protocol, *span) for span, protocol in ports)) for ports in listed]
    rules.append(ResolvedRule(ORIGIN, False, frozenset(), None))
    groups = port_groups(rules)
    assert sum(group.size for group in groups) == LAST_PORT + 1  # the last rule covers every port
    edges = {edge for ports in listed for (first, last), _ in ports for edge in (first - 1, first, last, last + 1)}
    for port in {edge for edge in edges if 0 <= edge <= LAST_PORT} | {0, 80, LAST_PORT}:
        found = [group.rules for group in groups if any(first <= port <= last for first, last in group.spans)]
        expected = tuple(
            rule for rule in rules if rule.ports is None or any(span.holds(Protocol.TCP, port) for span in rule.ports)
        )
        assert found == [expected]


def test_ports_without_a_rule_are_in_no_group() -> None:
    assert port_groups([_rule(PortSpan(Protocol.UDP, 53, 53)), _rule()]) == []
