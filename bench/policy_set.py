"""Any number of policies on a fixed set of endpoints, written as users write them: one CiliumNetworkPolicy a file.

Policy number i is about endpoint i modulo their count, has a peer of its own among the endpoints, and is in turn an
HTTP rule with a path of its own and a plain port of its own. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

HTTP_PORT = 80
PLAIN_PORT = 7000  # what an endpoint serves besides HTTP
CLIENT = "client"
SERVED = "/served"

_FIRST_PORT = 10_000

_POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {name}
  namespace: default
spec:
  endpointSelector:
    matchLabels:
      app: {endpoint}
  ingress:
  - fromEndpoints:
    - matchLabels:
        app: {peer}
    toPorts:
    - ports:
      - port: "{port}"
        protocol: TCP
"""
_HTTP = """\
      rules:
        http:
        - method: GET
          path: {path}
"""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One policy: the name is unique in a set and makes the file's name."""

    name: str
    text: str

    @property
    def file_name(self) -> str:
        """Below the folder of policies."""
        return f"{self.name}.yaml"


def http_policy(name: str, endpoint: str, peer: str, path: str) -> PolicyFile:
    """`peer` may GET `path` from `endpoint`."""
    text = _POLICY.format(name=name, endpoint=endpoint, peer=peer, port=HTTP_PORT) + _HTTP.format(path=path)
    return PolicyFile(name, text)


def plain_policy(name: str, endpoint: str, peer: str, port: int) -> PolicyFile:
    """`peer` may connect to a TCP port of `endpoint`."""
    return PolicyFile(name, _POLICY.format(name=name, endpoint=endpoint, peer=peer, port=port))


def endpoint_name(number: int) -> str:
    """The name, and the value of the label `app`, of endpoint `number`."""
    return f"pod-{number}"


def policies(count: int, endpoints: int) -> list[PolicyFile]:
    """`count` policies on `endpoints` endpoints, as the module describes."""
    return [_numbered(number, endpoints) for number in range(count)]


def _numbered(number: int, endpoints: int) -> PolicyFile:
    turn, about = divmod(number, endpoints)
    endpoint, peer = endpoint_name(about), endpoint_name((about + 1 + turn) % endpoints)
    name = f"policy-{number}"
    if turn % 2 == 0:
        return http_policy(name, endpoint, peer, f"/api/v1/resource-{number}")
    return plain_policy(name, endpoint, peer, _FIRST_PORT + turn)
