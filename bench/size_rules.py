"""One endpoint's policy with any number of HTTP rules, as users write it, and as an Envoy RBAC that lists its rules.

All rules let the same client to the same port. Rule i is about a path of its own (in turn exact and with everything
below it), or about a header value of its own. The request that is measured is allowed by the last rule alone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

CLIENT, SERVER = "client", "server"
HEADER = "X-Api-Key"
_PREFIX = "/api/v1"

_POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: sized
spec:
  endpointSelector:
    matchLabels:
      app: server
  ingress:
  - fromEndpoints:
    - matchLabels:
        app: client
    toPorts:
    - ports:
      - {{port: "{port}", protocol: TCP}}
      rules:
        http:
"""


class Kind(StrEnum):
    """What the rules tell requests apart by."""

    PATHS = "paths"
    HEADERS = "headerMatches"


def policy(kind: Kind, rules: int, port: int) -> str:
    """A CiliumNetworkPolicy with so many rules."""
    return _POLICY.format(port=port) + "".join(_rule(kind, number) for number in range(rules))


def wanted_path(rules: int) -> str:
    """The path of the measured request."""
    number = rules - 1
    return f"{_PREFIX}/resource-{number}/1" if number % 2 else f"{_PREFIX}/resource-{number}"


def wanted_value(rules: int) -> str:
    """Its value of HEADER."""
    return f"key-{rules - 1}"


def linear_rbac(kind: Kind, rules: int, client: str) -> dict[str, Any]:
    """The same as the RBAC filter's `rules`, one policy for each: the regexes as they are written."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {
            "action": "ALLOW",
            "policies": {
                # Envoy goes through them by name.
                f"rule-{number:06}": {
                    "permissions": [{"and_rules": {"rules": list(_conditions(kind, number))}}],
                    "principals": [{"direct_remote_ip": {"address_prefix": client, "prefix_len": 32}}],
                }
                for number in range(rules)
            },
        },
    }


def _path(number: int) -> str:
    return f"{_PREFIX}/resource-{number}/.*" if number % 2 else f"{_PREFIX}/resource-{number}"


def _rule(kind: Kind, number: int) -> str:
    if kind is Kind.PATHS:
        return f"        - {{method: GET, path: {_path(number)}}}\n"
    match = f"{{name: {HEADER}, value: key-{number}}}"
    return f"        - {{method: GET, path: {_PREFIX}/.*, headerMatches: [{match}]}}\n"


def _conditions(kind: Kind, number: int) -> Iterator[dict[str, Any]]:
    yield _header(":method", {"safe_regex": {"regex": "GET"}})
    if kind is Kind.PATHS:
        yield _header(":path", {"safe_regex": {"regex": _path(number)}})
    else:
        yield _header(":path", {"safe_regex": {"regex": f"{_PREFIX}/.*"}})
        yield _header(HEADER, {"exact": f"key-{number}"})


def _header(name: str, match: dict[str, Any]) -> dict[str, Any]:
    return {"header": {"name": name, "string_match": match}}
