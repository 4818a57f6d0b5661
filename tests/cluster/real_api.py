"""The API of a real Kubernetes, with the face of `lockgate.tests.kubernetes_api.ApiServer`: tests that ask no more
of it run against either."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns
from lockgate.tests.cluster.control_plane import ADMIN, HOST, PORT, ControlPlane, kubeconfig
from lockgate.tests.kubernetes_objects import BUILT_IN, CRDS, custom_kinds
from lockgate.tests.kubernetes_roles import MANIFEST

_JSON, _MERGE, _STRATEGIC = (f"application/{kind}json" for kind in ("", "merge-patch+", "strategic-merge-patch+"))
_CONFLICT, _NOT_FOUND = 409, 404
KINDS = {
    **BUILT_IN,
    **custom_kinds(),
    "serviceaccounts": ("ServiceAccount", "v1", True),
    "daemonsets": ("DaemonSet", "apps/v1", True),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io/v1beta1", True),
}


class Refused(Exception):  # noqa: N818 - what the server said, not a fault of ours
    """`told` is a `kind: Status`."""

    def __init__(self, status: int, told: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {told.get('message')}")
        self.status = status
        self.told = told


class RealApi:
    """The manifests of compose/kubernetes are there. What is asked is asked as the cluster's administrator."""

    def __init__(
        self, folder: Path, where: Namespace, *, whole: bool = False, host: str = HOST, dual: bool = False
    ) -> None:
        self.plane = ControlPlane(folder, where, whole=whole, host=host, dual=dual)
        try:
            self.manifests = [
                # The release in Debian is older than `appArmorProfile`, which its kubectl then refuses.
                self.plane.tried("kubectl", f"--kubeconfig={self.plane.kubeconfig}", "apply", "-f", str(path), *more)
                for path, more in ((CRDS, ()), (MANIFEST, ("--validate=false",)))
            ]
            self.token_file = folder / "token"
            self.token_file.write_text(self.token())
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, path: str, body: object = None, content: str = _JSON) -> Any:
        """Any request. Raises Refused."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        context = ssl.create_default_context(cafile=str(self.plane.authority))
        plain = netns.run_in(self.plane.where.path, lambda: socket.create_connection(("127.0.0.1", PORT), 60))
        connection.sock = context.wrap_socket(plain, server_hostname="127.0.0.1")
        try:
            headers = {"authorization": f"Bearer {ADMIN}", "content-type": content}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        told = json.loads(text) if text else {}
        if answer.status >= 300:
            raise Refused(answer.status, told)
        return told

    def put(self, plural: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Makes or replaces an object, and its status."""
        kind, version, namespaced = KINDS[plural]
        wanted = deepcopy(dict(told)) | {"apiVersion": version, "kind": kind}
        status = wanted.pop("status", None)
        name = wanted["metadata"]["name"]
        namespace = wanted["metadata"].get("namespace", "default") if namespaced else ""
        for key in ("resourceVersion", "uid", "managedFields", "creationTimestamp"):
            wanted["metadata"].pop(key, None)
        try:
            made = self.ask("POST", path(plural, namespace), wanted)
        except Refused as error:
            if error.status != _CONFLICT:
                raise
            if plural in custom_kinds():
                made = self._replace(plural, namespace, name, wanted)
            else:
                made = self.ask("PATCH", path(plural, namespace, name), wanted, _STRATEGIC)
        if status is not None:
            made = self.ask("PATCH", f"{path(plural, namespace, name)}/status", {"status": status}, _MERGE)
        return dict(made)

    def _replace(self, plural: str, namespace: str, name: str, wanted: dict[str, Any]) -> Any:
        """Whatever the agent writes into its status meanwhile."""
        while True:
            wanted["metadata"]["resourceVersion"] = self.get(plural, name, namespace)["metadata"]["resourceVersion"]
            try:
                return self.ask("PUT", path(plural, namespace, name), wanted)
            except Refused as error:
                if error.status != _CONFLICT:
                    raise

    def apply(self, text: str) -> None:
        """The documents of a YAML file."""
        plurals = {kind: plural for plural, (kind, _, _) in KINDS.items()}
        for told in yaml.safe_load_all(text):
            self.put(plurals[told["kind"]], told)

    def delete(self, plural: str, name: str, namespace: str = "default") -> None:
        """Takes an object away. Raises KeyError."""
        where = path(plural, namespace if KINDS[plural][2] else "", name)
        try:
            self.ask("DELETE", where, {"gracePeriodSeconds": 0, "kind": "DeleteOptions", "apiVersion": "v1"})
        except Refused as error:
            if error.status == _NOT_FOUND:
                raise KeyError(name) from None
            raise

    def get(self, plural: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """An object as it is. Raises KeyError."""
        try:
            return dict(self.ask("GET", path(plural, namespace if KINDS[plural][2] else "", name)))
        except Refused as error:
            if error.status == _NOT_FOUND:
                raise KeyError(name) from None
            raise

    def token(self, bound_to: Mapping[str, str] | None = None) -> str:
        """For the agent, of its service account; one that is bound to an object ends with it."""
        spec: dict[str, Any] = {"expirationSeconds": 3600, "audiences": []}
        if bound_to is not None:
            spec["boundObjectRef"] = dict(bound_to)
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        told = self.ask("POST", "/api/v1/namespaces/lockgate/serviceaccounts/lockgate/token", asked)
        return str(told["status"]["token"])

    def kubeconfig(self, folder: Path) -> Path:
        """A file that lets the agent in, with a token that stands in a file of its own."""
        made = folder / "kubeconfig"
        made.write_text(yaml.safe_dump(kubeconfig(self.plane.authority, {"tokenFile": str(self.token_file)})))
        return made

    def watching(self) -> set[str]:
        """The collections that the agent watches."""
        found: dict[str, str] = {}
        for event in self._audited():
            if event["verb"] == "watch":
                if event["stage"] == "ResponseStarted":
                    found[event["auditID"]] = _resource(event)
                elif event["stage"] in ("ResponseComplete", "Panic"):
                    found.pop(event["auditID"], None)
        return set(found.values())

    def asked(self, verb: str, plural: str) -> int:
        """How often the agent did; a list that is asked only for the version does not count."""
        return sum(
            (event["verb"], _resource(event)) == (verb, plural)
            for event in self._audited()
            if event["stage"] == "ResponseComplete" and "limit=1&" not in f"{event['requestURI']}&"
        )

    def stop(self) -> None:
        """The server vanishes."""
        self.plane.stop_server()

    def start(self) -> None:
        """It comes back."""
        self.plane.start_server()

    def close(self) -> None:
        """Ends all."""
        self.plane.close()

    def _audited(self) -> list[dict[str, Any]]:
        lines = self.plane.audit.read_text().splitlines() if self.plane.audit.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]


def path(plural: str, namespace: str = "", name: str = "") -> str:
    """Of a collection or an object."""
    _, version, _ = KINDS[plural]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{plural}" + (f"/{name}" if name else "")


def _resource(event: Mapping[str, Any]) -> str:
    told = event.get("objectRef") or {}
    sub = told.get("subresource")
    return str(told.get("resource", "")) + (f"/{sub}" if sub else "")
