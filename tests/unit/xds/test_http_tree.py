"""What the tree of HTTP rules keeps of them; what it says is tested with the filters (test_rbac.py)."""

from __future__ import annotations

import sys

from lockgate.policies.endpoint_policy import HttpRule, HttpRules
from lockgate.xds.compile.http_tree import Condition, conditions, http_tree
from lockgate.xds.compile.matcher import MANY_ENTRIES

RULES = HttpRules(tuple(HttpRule(f"/api/{at}", "GET", "example.com") for at in range(MANY_ENTRIES)))


def made(count: int) -> list[Condition]:
    return conditions("some/rule:spec", HttpRules(RULES.http[:count]))


def test_few_conditions_are_let_go_with_their_rule() -> None:
    few = made(MANY_ENTRIES - 1)
    one = few[0]
    held = sys.getrefcount(one)
    assert http_tree(few) == http_tree(made(MANY_ENTRIES - 1))
    assert sys.getrefcount(one) == held


def test_what_is_remembered_of_many_does_not_show() -> None:
    many, other = made(MANY_ENTRIES), made(MANY_ENTRIES)
    first = http_tree(many)
    assert http_tree(many) == first  # remembered
    assert http_tree(other) == first  # of other conditions that say the same
    assert http_tree([*many[:-1], *made(1)]) != first
