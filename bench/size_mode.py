"""One Envoy with one policy, in the server's pod in front of the origin: what a policy of some size costs it.

All modes of a size stand in one pod, each on a port of its own, and differ in one filter only.
"""

from __future__ import annotations

import http.client
import json
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockgate.agent.playground import Pod
from lockgate.envoy.config.end import DESTINATION, SOURCE
from lockgate.policies import Direction, World, endpoint_of, parse_policies
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.kernel import netns
from lockgate.xds import Resource, compile_node, end_text, policed_by
from lockgate.xds.wire import any_of_type, frame, text

from .errors import CheckError, StartError
from .mode import spawn
from .size_rules import CLIENT, HEADER, SERVER, Kind, linear_rbac, policy, wanted_path, wanted_value

ORIGIN_PORT = 80
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_SET_FILTER_STATE = "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the modes of one size live."""

    directory: Path
    envoy: Path
    client: Pod
    server: Pod


class SizeMode(ABC):
    """Make it, `start` it, `check` it, measure `url` from the client with `headers`."""

    label: str
    denies = True
    slow = False  # it may take seconds for a request

    def __init__(self, place: Place, rules: int, port: int) -> None:
        self.place = place
        self.rules = rules
        self.port = port
        self.key = f"{self.label}-{rules}"

    @abstractmethod
    def policy_filter(self) -> list[dict[str, Any]]:
        """The HTTP filter in front of the router, if any."""

    @property
    def url(self) -> str:
        """What is asked for."""
        return f"http://{self.place.server.ipv4}:{self.port}{wanted_path(self.rules)}"

    @property
    def headers(self) -> dict[str, str]:
        """And with which headers."""
        return {HEADER: wanted_value(self.rules)}

    def start(self) -> None:
        """Starts the Envoy, with one worker: that one is what limits the load."""
        file = self.place.directory / f"{self.key}.json"
        file.write_text(json.dumps(self._bootstrap()))
        command: list[str | Path] = [self.place.envoy, "-c", file, "--concurrency", "1", "--disable-hot-restart"]
        command += ["--log-level", "warning"]
        self._log = self.place.directory / f"{self.key}.log"
        with self._log.open("wb") as log:
            self._process = spawn(self.place.server, command, stdout=log, stderr=subprocess.STDOUT)

    def check(self) -> None:
        """The request is answered, and one that no rule is about is denied.

        Raises:
            CheckError: it is otherwise.
            StartError: the Envoy has ended.
        """
        if self._process.poll() is not None:
            raise StartError(f"{self.key}: Envoy ended: {self._log.read_text(errors='replace').strip()[-600:]}")
        right, wrong = wanted_path(self.rules), {HEADER: "key-none"}
        answers = {
            "the measured request": (self._ask(right, self.headers), 200),
            "another path and header": (self._ask("/other", wrong), 403 if self.denies else 200),
        }
        for what, (answer, expected) in answers.items():
            if answer != expected:
                raise CheckError(f"{self.key}: {what} was answered {answer}, not {expected}")

    @property
    def memory(self) -> float:
        """Resident MB of 10^6 bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6

    def _ask(self, path: str, headers: dict[str, str]) -> int:
        def request() -> int:
            connection = http.client.HTTPConnection(str(self.place.server.ipv4), self.port, timeout=5)
            try:
                connection.request("GET", path, headers=headers)
                return connection.getresponse().status
            except OSError as error:
                raise CheckError(f"{self.key}: no answer ({error})") from None
            finally:
                connection.close()

        return netns.run_in(self.place.client.path, request)

    def _bootstrap(self) -> dict[str, Any]:
        manager = {
            "@type": _MANAGER,
            "stat_prefix": "bench",
            "route_config": {
                "virtual_hosts": [
                    {"name": "any", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "o"}}]}
                ]
            },
            "http_filters": [
                *self.policy_filter(),
                {"name": "router", "typed_config": {"@type": _ROUTER, "suppress_envoy_headers": True}},
            ],
            "use_remote_address": False,
            "skip_xff_append": True,
            "generate_request_id": False,
            "normalize_path": True,
            "merge_slashes": True,
        }
        origin = {"socket_address": {"address": "127.0.0.1", "port_value": ORIGIN_PORT}}
        return {
            "node": {"id": self.key, "cluster": "bench"},
            "static_resources": {
                "listeners": [
                    {
                        "name": "bench",
                        "address": {"socket_address": {"address": "0.0.0.0", "port_value": self.port}},
                        "filter_chains": [{"filters": [_identities(), {"name": "http", "typed_config": manager}]}],
                    }
                ],
                "clusters": [
                    {
                        "name": "o",
                        "type": "STATIC",
                        "load_assignment": {
                            "cluster_name": "o",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": origin}}]}],
                        },
                    }
                ],
            },
            # As in the bootstrap of the node's Envoy: joined regexes are large.
            "layered_runtime": {
                "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 100_000}}]
            },
        }


class NoPolicy(SizeMode):
    """The same Envoy without a policy: what the others are divided by."""

    label = "none"
    denies = False

    def policy_filter(self) -> list[dict[str, Any]]:
        return []


class Compiled(SizeMode):
    """The policy as the agent compiles it, arriving as a filter by discovery."""

    kind: Kind

    def policy_filter(self) -> list[dict[str, Any]]:
        resource = compiled(self.kind, self.rules, self.port)
        file = self.place.directory / f"{self.key}.pb"
        # envoy.service.discovery.v3.DiscoveryResponse: version_info, resources, type_url
        listed = any_of_type(resource.type_url, resource.body)
        file.write_bytes(text(1, "1") + frame(2, listed) + text(4, resource.type_url))
        source = {"path_config_source": {"path": str(file)}, "resource_api_version": "V3"}
        return [{"name": resource.name, "config_discovery": {"config_source": source, "type_urls": [_RBAC]}}]


class Linear(SizeMode):
    """The same rules one after the other, as a direct translation gives."""

    kind: Kind
    slow = True

    def policy_filter(self) -> list[dict[str, Any]]:
        rbac = linear_rbac(self.kind, self.rules, str(self.place.client.ipv4))
        return [{"name": "linear", "typed_config": rbac}]


class CompiledPaths(Compiled):
    """By paths."""

    label, kind = "paths", Kind.PATHS


class CompiledHeaders(Compiled):
    """By header values."""

    label, kind = "headers", Kind.HEADERS


class LinearPaths(Linear):
    """By paths."""

    label, kind = "linear-paths", Kind.PATHS


class LinearHeaders(Linear):
    """By header values."""

    label, kind = "linear-headers", Kind.HEADERS


def compiled(kind: Kind, rules: int, port: int) -> Resource:
    """The ingress filter of the server's policy: from YAML to bytes, the agent's own way."""
    parsed = parse_policies(policy(kind, rules, port).encode(), "policy.yaml")
    if not parsed.ok:
        raise StartError(f"the policy is refused: {parsed.problems[0]}")
    world = World.of(parsed.policies, [_endpoint(name) for name in (CLIENT, SERVER)])
    pairs = [(endpoint, world.policy_of(endpoint)) for endpoint in world.endpoints]
    return compile_node(pairs, policed_by(pairs)).of(Direction.INGRESS, _endpoint(SERVER).identity)


def _endpoint(name: str) -> Endpoint:
    return endpoint_of(Workload(name, "default", (("app", name),)), 1, name)


def _identities() -> dict[str, Any]:
    """What the dynamic module finds in the kernel, said to every connection: here there is no data path."""
    ends = {key: _endpoint(name).identity for key, name in ((DESTINATION, SERVER), (SOURCE, CLIENT))}
    return {
        "name": "identities",
        "typed_config": {
            "@type": _SET_FILTER_STATE,
            "on_new_connection": [
                {
                    "object_key": key,
                    "factory_key": "envoy.string",
                    "format_string": {
                        "text_format_source": {"inline_string": end_text(identity, here=key == DESTINATION)}
                    },
                }
                for key, identity in ends.items()
            ],
        },
    }
