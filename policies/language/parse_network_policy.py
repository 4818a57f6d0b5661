"""Reading `networking.k8s.io/v1` NetworkPolicy into the same model.

https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
"""

from __future__ import annotations

from enum import StrEnum

from ..endpoint_policy import LAST_PORT, Direction, Protocol
from ..labels import CLUSTER, CLUSTER_LABEL, K8S, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX
from ..model import Block, Entry, Peers, PolicyKey, Port, PortRule, Rule
from ..selector import Operator, Requirement, Selector
from .fields import Field, shorten
from .parse_peers import parse_block
from .parse_ports import PORT_NAME
from .parse_selector import parse_selector


class _PolicyType(StrEnum):
    INGRESS = "Ingress"
    EGRESS = "Egress"


_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}


def parse_network_policy(field: Field, key: PolicyKey) -> Rule | None:
    """A NetworkPolicy's spec as a rule; each direction in policyTypes is denied by default."""
    fields = field.mapping(("podSelector", "policyTypes", "ingress", "egress"))
    if fields is None:
        return None
    own = Requirement(K8S, NAMESPACE_LABEL, Operator.IN, (key.namespace,))
    subject: Selector | None = Selector()
    if "podSelector" in fields:
        subject = parse_selector(fields["podSelector"], K8S)
    types = _policy_types(fields)
    ingress = _entries(fields, Direction.INGRESS, key.namespace)
    egress = _entries(fields, Direction.EGRESS, key.namespace)
    if subject is None:
        return None
    return Rule(
        Selector.of((*subject.requirements, own)),
        ingress if _PolicyType.INGRESS in types else (),
        egress if _PolicyType.EGRESS in types else (),
        deny_ingress=_PolicyType.INGRESS in types,
        deny_egress=_PolicyType.EGRESS in types,
        path=field.path,
        line=field.line,
    )


def _policy_types(fields: dict[str, Field]) -> set[_PolicyType]:
    """Without policyTypes: Ingress always, and Egress if the section has entries, as the API server fills them in
    (https://kubernetes.io/docs/concepts/services-networking/network-policies/#networkpolicy-resource)."""
    listed = fields["policyTypes"].items() if "policyTypes" in fields else []
    if not listed:
        if "egress" in fields and fields["egress"].items():
            return {_PolicyType.INGRESS, _PolicyType.EGRESS}
        if "egress" in fields:
            fields["egress"].warn("an empty section denies no egress", "write policyTypes: [Ingress, Egress]")
        return {_PolicyType.INGRESS}
    found = (item.choice(_PolicyType, "policy type") for item in listed)
    types = {item for item in found if item is not None}
    for name, kind in (("ingress", _PolicyType.INGRESS), ("egress", _PolicyType.EGRESS)):
        if name in fields and fields[name].items() and kind not in types:
            fields[name].warn(f"the section has no effect: {kind} is not in policyTypes", f"add {kind} to policyTypes")
    return types


def _entries(fields: dict[str, Field], direction: Direction, namespace: str) -> tuple[Entry, ...]:
    peer_field = "to" if direction is Direction.EGRESS else "from"
    entries: list[Entry] = []
    for item in fields[direction.value].items() if direction.value in fields else ():
        parts = item.mapping((peer_field, "ports"))
        if parts is None:
            continue
        item.warn_of_nulls()
        listed = parts[peer_field].items() if peer_field in parts else []
        peers = _peers(listed, namespace) if listed else None
        ports = None
        if "ports" in parts and (port_items := parts["ports"].items()):
            found = tuple(port for entry in port_items if (port := _port(entry)) is not None)
            ports = (PortRule(found, path=parts["ports"].path, line=parts["ports"].line),)
        entries.append(Entry(False, peers, ports, item.path, item.line))
    return tuple(entries)


def _peers(listed: list[Field], namespace: str) -> Peers:
    selectors: list[Selector] = []
    blocks: list[Block] = []
    for item in listed:
        fields = item.mapping(("podSelector", "namespaceSelector", "ipBlock"))
        if fields is None:
            continue
        if not fields:
            item.error("the peer is empty", "write podSelector: {} for every pod of the namespace")
        elif "ipBlock" in fields:
            if len(fields) > 1:
                item.error("ipBlock excludes podSelector and namespaceSelector", "write one entry of the list for each")
            if (block := parse_block(fields["ipBlock"])) is not None:
                blocks.append(block)
        else:
            selectors.append(_pod_selector(fields, namespace))
    return Peers(endpoints=tuple(selectors), blocks=tuple(blocks))


def _pod_selector(fields: dict[str, Field], namespace: str) -> Selector:
    """Pods of this namespace, or of the namespaces whose labels namespaceSelector selects."""
    requirements = [Requirement(K8S, CLUSTER_LABEL, Operator.IN, (CLUSTER,))]
    if "podSelector" in fields and (pods := parse_selector(fields["podSelector"], K8S)) is not None:
        requirements += pods.requirements
    if "namespaceSelector" not in fields:
        requirements.append(Requirement(K8S, NAMESPACE_LABEL, Operator.IN, (namespace,)))
    elif (spaces := parse_selector(fields["namespaceSelector"], K8S, NAMESPACE_LABELS_PREFIX)) is not None:
        requirements += spaces.requirements
        requirements.append(Requirement(K8S, NAMESPACE_LABEL, Operator.EXISTS))
    return Selector.of(requirements)


def _port(field: Field) -> Port | None:
    fields = field.mapping(("protocol", "port", "endPort"))
    if fields is None:
        return None
    protocol = Protocol.TCP
    if "protocol" in fields:
        text = fields["protocol"].text()
        if text is None:
            return None
        if text not in _PROTOCOLS:
            fields["protocol"].error(f"unknown protocol '{shorten(text)}'", f"use one of: {', '.join(_PROTOCOLS)}")
            return None
        protocol = _PROTOCOLS[text]
    if "port" not in fields:
        if "endPort" in fields:
            fields["endPort"].error("endPort without port", "write the first port in port")
        return Port((protocol,))
    if isinstance(fields["port"].value, str):
        name = str(fields["port"].value).lower()
        if not PORT_NAME.fullmatch(name):
            fields["port"].error(f"'{shorten(name)}' is not a port name", "write a number without quotes, or a name")
            return None
        if "endPort" in fields:
            fields["endPort"].error("endPort needs a port number", f"write the number instead of '{name}'")
            return None
        return Port((protocol,), 0, 0, name)
    first = fields["port"].integer(1, LAST_PORT)
    last = fields["endPort"].integer(1, LAST_PORT) if "endPort" in fields else first
    if first is None or last is None:
        return None
    if last < first:
        fields["endPort"].error(f"endPort {last} is below port {first}", "write the smaller number in port")
        return None
    return Port((protocol,), first, last)
