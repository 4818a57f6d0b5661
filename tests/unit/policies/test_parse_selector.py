"""Refusals of selectors."""

from __future__ import annotations

from lockgate.tests.unit.policies.refusals import (
    Row,
    each_of,
    refusal_of,
)

REFUSALS: list[Row] = [
    (
        "endpointSelector: {matchLabels: {app: true}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels.app",
        "text expected, not the boolean true",
        'quote it: "true"',
    ),
    (
        "endpointSelector: {matchLabels: {app: }}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels.app",
        "text expected, not nothing",
        'write ""',
    ),
    (
        "endpointSelector: {matchLabels: {a b: x}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels[a b]",
        "'a b' is not a label key",
        "write name",
    ),
    (
        'endpointSelector: {matchLabels: {"a\\e[2J": x}}\ningress: [{}]',
        0,
        r"spec.endpointSelector.matchLabels[a\x1b[2J]",
        r"'a\x1b[2J' is not a label key",
        "write name",
    ),
    (
        "endpointSelector: {matchLabels: {app: -x}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels.app",
        "'-x' is not a label value",
        "use at most 63",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {key: app, operator: in, values: [x]}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0].operator",
        "unknown operator 'in'",
        "did you mean 'In'?",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {key: app, operator: In}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0]",
        "In needs values",
        "list at least one value",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {key: app, operator: Exists, values: [x]}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0]",
        "Exists takes no values",
        "remove values",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {operator: Exists}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0]",
        "the expression has no key",
        "write key",
    ),
    ("endpointSelector: {app: x}\ningress: [{}]", 0, "spec.endpointSelector.app", "unknown field 'app'", "use one of"),
]


@each_of(REFUSALS)
def test_a_refusal_has_its_place_and_sentence(row: Row) -> None:
    assert refusal_of(row) == row[1:]
