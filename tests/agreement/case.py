"""A case: everything that decides about one flow, as the data that users write. Read from and written to YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from lockgate.policies import Flow, World, endpoint_of, parse_policies, parse_workloads
from lockgate.policies.secret import header_values
from lockgate.policies.tls_secret import TlsSecrets
from lockgate.tests.agreement.exchange import Wire, cookie_of
from lockgate.tests.agreement.tls import secrets as tls_secrets

_PATH_OF_HTTP1 = re.compile(r"[!-~]*")

# The node's own addresses.
HOSTS = (ip_address("10.200.0.1"), ip_address("fd00:200::1"))


Document: TypeAlias = dict[str, Any]


class InvalidCase(Exception):  # noqa: N818  a case that the readers refuse is no error when shrinking
    """The documents have problems, which are the message."""


def parsed(flow: Document) -> tuple[Flow, Wire]:
    """What the verdict function is asked, and how the client speaks. Raises FlowError, and InvalidCase for what that
    version of HTTP does not know."""
    wire = Wire(flow.get("wire", Wire.HTTP1))
    asked = {key: value for key, value in flow.items() if key != "wire"}
    request = asked.get("http", {"host": "any"})
    if wire is not Wire.HTTP1 and not request.get("host"):
        raise InvalidCase("a request of HTTP/2 is for a host")
    if wire is Wire.HTTP1 and not _PATH_OF_HTTP1.fullmatch(request.get("path", "")):
        raise InvalidCase("a path of HTTP/1 ends at a blank")
    if wire is Wire.HTTP2 and "headers" in asked.get("http", {}):
        headers, crumbs = {}, list[str]()
        for name, value in asked["http"]["headers"].items():
            if name.lower() == "cookie":
                crumbs += value if isinstance(value, list) else [value]
            else:
                headers[name] = value
        asked["http"] = {**asked["http"], "headers": headers | cookie_of(crumbs)}
    return Flow.from_json(asked), wire


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def dump(data: object) -> str:
    """YAML without anchors, in the order in which it was made."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is in force. `policies` are documents, Secrets among them; `workloads` and `services` are entries of a
    workloads file, `names` what DNS has answered (name -> addresses). The Secrets for TLS (tls.py) are always there."""

    policies: list[Document] = field(default_factory=list)
    workloads: list[Document] = field(default_factory=list)
    services: list[Document] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)

    def world(
        self, devices: Mapping[str, int], *, previous: World | None = None, names: dict[str, list[str]] | None = None
    ) -> World:
        """The world that the documents describe; `devices` are interface -> ifindex. `previous` as for `World.of`, and
        `names` in place of the setting's own. Raises InvalidCase."""
        documents = [*self.policies, *tls_secrets()] if "TLS" in repr(self.policies) else self.policies
        policies = parse_policies(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False).encode(), "policies")
        workloads = parse_workloads(
            dump({"workloads": self.workloads, "services": self.services}).encode(), "workloads"
        )
        if not policies.ok or not workloads.ok:
            raise InvalidCase("\n".join(str(each) for each in (*policies.problems, *workloads.problems)))
        endpoints = [
            endpoint_of(each, devices[each.interface], each.interface) if each.interface else endpoint_of(each)
            for each in workloads.workloads
        ]
        return World.of(
            policies.policies,
            endpoints,
            previous=previous,
            hosts=HOSTS,
            services=workloads.services,
            names={
                name: frozenset(map(ip_address, found))
                for name, found in (self.names if names is None else names).items()
            },
            secrets=header_values(policies.secrets).values,
            tls=TlsSecrets(policies.secrets),
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A setting and one flow, which is written as `policy explain --flows` takes it, with a `wire` beside (see Wire).
    `note` is for people."""

    setting: Setting
    flow: dict[str, Any]
    note: str = ""

    @classmethod
    def read(cls, path: Path) -> Case:
        """The case in a file."""
        data = yaml.safe_load(path.read_text())
        setting = Setting(
            data["policies"],
            data["workloads"],
            data.get("services", []),
            data.get("names", {}),
        )
        return cls(setting, data["flow"], data.get("note", ""))

    def text(self) -> str:
        """What `read` reads."""
        setting = self.setting
        data: dict[str, Any] = {"note": self.note} if self.note else {}
        data |= {"flow": self.flow, "policies": setting.policies, "workloads": setting.workloads}
        for name in ("services", "names"):
            if value := getattr(setting, name):
                data[name] = value
        return dump(data)

    def noted(self, note: str) -> Case:
        """The same with another note."""
        return replace(self, note=note)
