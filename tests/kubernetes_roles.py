"""Who may do what in a cluster, by the roles and bindings of manifests: https://kubernetes.io/docs/reference/access-authn-authz/rbac/"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MANIFEST = Path(__file__).parents[1] / "compose" / "kubernetes" / "lockgate.yaml"


@dataclass(frozen=True)
class _Grant:
    user: str
    namespace: str  # empty: everywhere
    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]


class Roles:
    """Nothing is allowed that no binding grants."""

    def __init__(self, manifests: Iterable[dict[str, Any]]) -> None:
        listed = list(manifests)
        rules = {
            (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each["rules"]
            for each in listed
            if each["kind"] in ("Role", "ClusterRole")
        }
        self._grants = []
        for each in listed:
            if each["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
                continue
            within = each["metadata"].get("namespace", "") if each["kind"] == "RoleBinding" else ""
            role = each["roleRef"]
            at = within if role["kind"] == "Role" else ""
            for subject in each["subjects"]:
                user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
                for rule in rules[role["kind"], at, role["name"]]:
                    lists = (rule["verbs"], rule["apiGroups"], rule["resources"])
                    self._grants.append(_Grant(user, within, *map(frozenset, lists)))

    @classmethod
    def shipped(cls) -> Roles:
        """Those of compose/kubernetes."""
        return cls(yaml.safe_load_all(MANIFEST.read_text()))

    def allow(self, user: str, verb: str, group: str, resource: str, namespace: str) -> bool:
        """True when a binding grants it; an empty namespace is all of them."""
        return any(
            grant.user == user
            and verb in grant.verbs
            and group in grant.groups
            and resource in grant.resources
            and grant.namespace in ("", namespace)
            for grant in self._grants
        )
