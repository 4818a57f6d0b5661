"""From Envoy's words and the resource they are about to a place in a policy."""

from __future__ import annotations

import pytest
from lockgate.agent.refusal.blame import field_in, likely, parts_in, place_of, quoted
from lockgate.policies import Policy, parse_policies

TEXT = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {path: "/items/[0-9]+", method: "GET|POST"}
        - {path: /a, headers: ["X-Team: blue"]}
  egress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{host: ".+\\\\.example"}]}
    - ports: [{port: "443", protocol: TCP}]
      serverNames: ["*.example.com"]
"""
HTTP = "spec.ingress[0].toPorts[0].rules.http"


def policy(text: str = TEXT) -> Policy:
    (parsed,) = parse_policies(text.encode(), "p.yaml").policies
    return parsed


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/items/[0-9]+: pattern too large - compile failed", f"{HTTP}[0].path"),
        ("(?:/x/.+)|(?:/items/[0-9]+): pattern too large", f"{HTTP}[0].path"),
        ("invalid value 'blue'", f"{HTTP}[1].headers"),
        ("no header x-team here", f"{HTTP}[1].headers"),
        ("bad regex .+\\.example", "spec.egress[0].toPorts[0].rules.http[0].host"),
        ("bad server name *.example.com", "spec.egress[0].toPorts[1].serverNames"),
    ],
)
def test_what_is_quoted_tells_the_field(text: str, place: str) -> None:
    (found,) = quoted(policy(), text)
    assert str(place_of(policy(), *found)) == place


def test_a_rules_own_name_tells_the_rule() -> None:
    found = quoted(policy(), "action default/api:spec.egress[0].toPorts[1] is no action")
    assert [str(place_of(policy(), *each)) for each in found] == ["spec.egress[0].toPorts[1].serverNames"]


def test_short_values_are_quoted_only_in_quotes() -> None:
    assert quoted(policy(), "not /a good day") == []
    ((part, field),) = quoted(policy(), "'/a' is no path")
    assert (part.item, field) == (1, "path")


@pytest.mark.parametrize(
    ("resource", "places"),
    [
        ("lockgate.http.ingress", [f"{HTTP}[0]", f"{HTTP}[1]"]),
        ("lockgate.http.ingress.17", [f"{HTTP}[0]", f"{HTTP}[1]"]),
        ("lockgate.http.egress.0", ["spec.egress[0].toPorts[0].rules.http[0]"]),
        ("lockgate.tls.egress", ["spec.egress[0].toPorts[1].serverNames"]),
    ],
)
def test_the_resource_narrows_it(resource: str, places: list[str]) -> None:
    assert [str(place_of(policy(), part)) for part in parts_in(policy(), resource)] == places


def test_a_resource_of_none_of_its_parts_narrows_nothing() -> None:
    assert len(parts_in(policy(), "lockgate.http.ingress.headers")) == 4
    assert len(parts_in(policy(), "something.else")) == 4


def test_a_place_has_the_line_of_what_is_around_it() -> None:
    part = parts_in(policy(), "lockgate.tls.egress")[0]
    assert place_of(policy(), part).line == 18
    assert (place_of(policy(), None).path, place_of(policy(), None).line) == ("spec", 2)
    assert field_in(policy(), part, "lockgate.tls.egress", "nothing quoted") == ""


def test_words_that_quote_everybody_name_nobody() -> None:
    other = policy(TEXT.replace("name: api", "name: other").replace("/items", "/things"))
    assert likely([policy(), other], "'/items/[0-9]+' is too large") == [policy()]
    assert likely([policy(), other], "x-team") == []
