"""Reading one `spec` of a CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy."""

from __future__ import annotations

from enum import StrEnum

from ..endpoint_policy import Direction
from ..model import Entry, Peers, PolicyKey, PolicyKind, PortRule, Rule
from ..selector import Selector
from .fields import Field
from .parse_peers import EGRESS_PEERS, INGRESS_PEERS, parse_peers
from .parse_ports import parse_icmps, parse_port_rule
from .parse_selector import parse_selector, subject_selector
from .unsupported import Feature

_SECTIONS = ("ingress", "ingressDeny", "egress", "egressDeny")
RULE_FIELDS = (
    "endpointSelector",
    "nodeSelector",
    *_SECTIONS,
    "enableDefaultDeny",
    "description",
    "labels",
    "log",
)


class _Authentication(StrEnum):
    DISABLED = "disabled"
    REQUIRED = "required"
    TEST_ALWAYS_FAIL = "test-always-fail"


def parse_rule(field: Field, key: PolicyKey) -> Rule | None:
    """A spec; None when it is no mapping or has no usable selector."""
    before = field.findings.errors
    fields = field.mapping(RULE_FIELDS)
    if fields is None:
        return None
    sections = {name: fields[name].items() if name in fields else [] for name in _SECTIONS}
    if not any(sections.values()) and field.findings.errors == before:
        field.error(
            "the rule has none of ingress, ingressDeny, egress and egressDeny",
            "write at least one; ingress: [{}] denies everything by default",
        )
    subject = _subject(field, fields, key)
    ingress: list[Entry] = []
    egress: list[Entry] = []
    for name, items in sections.items():
        direction = Direction.EGRESS if name.startswith("egress") else Direction.INGRESS
        found = egress if direction is Direction.EGRESS else ingress
        for item in items:
            entry = _entry(item, direction, name.endswith("Deny"), key.namespace)
            if entry is not None:
                found.append(entry)
    deny = _default_deny(fields, sections)
    _check_notes(fields)
    if subject is None:
        return None
    return Rule(
        subject,
        tuple(ingress),
        tuple(egress),
        deny_ingress=deny[Direction.INGRESS],
        deny_egress=deny[Direction.EGRESS],
        path=field.path,
        line=field.line,
        node="nodeSelector" in fields,
    )


def _subject(field: Field, fields: dict[str, Field], key: PolicyKey) -> Selector | None:
    node = fields.get("nodeSelector")
    if node is not None:
        if "endpointSelector" in fields:
            field.error("the rule has both endpointSelector and nodeSelector", "write one of them")
        elif key.kind is not PolicyKind.CLUSTERWIDE:
            node.error("nodeSelector is possible in a CiliumClusterwideNetworkPolicy only", "use endpointSelector")
        else:
            _refuse_proxies_for_nodes(fields)
        return parse_selector(node)
    if "endpointSelector" not in fields:
        field.error(
            "the rule has neither endpointSelector nor nodeSelector", "write endpointSelector: {} for every endpoint"
        )
        return None
    return subject_selector(fields["endpointSelector"], key.namespace)


def _refuse_proxies_for_nodes(fields: dict[str, Field]) -> None:
    """No proxy takes up the node's own connections, and nobody learns names from its questions."""
    for name in ("ingress", "egress"):
        for entry in fields[name].items() if name in fields else ():
            if entry.peek().get("toFQDNs"):
                entry.error("toFQDNs is not possible under nodeSelector", "write toCIDR, or select endpoints")
            for port in entry.at("toPorts"):
                for kind in ("serverNames", "terminatingTLS", "originatingTLS"):
                    if port.peek().get(kind):
                        port.error(f"{kind} is not possible under nodeSelector", "remove it, or select endpoints")
                for rules in port.at("rules"):
                    for kind, given in rules.peek().items():
                        if given:
                            kind = "http" if kind == "grpc" else kind
                            rules.error(
                                f"{kind} rules are not possible under nodeSelector", "remove them, or select endpoints"
                            )


def _entry(field: Field, direction: Direction, deny: bool, namespace: str) -> Entry | None:
    egress = direction is Direction.EGRESS
    peer_fields = EGRESS_PEERS if egress else INGRESS_PEERS
    requires = "toRequires" if egress else "fromRequires"
    fields = field.mapping((*peer_fields, requires, "toPorts", "icmps", "authentication"))
    if fields is None:
        return None
    field.warn_of_nulls()
    if requires in fields and fields[requires].items():
        fields[requires].error(f"{requires} is no longer supported", "select the peers in one selector")
    if "authentication" in fields:
        _authentication(fields["authentication"], deny)
    peers = parse_peers(field, fields, direction, deny, namespace)
    ports: tuple[PortRule, ...] | None = None
    if "toPorts" in fields and (items := fields["toPorts"].items()):
        found = (parse_port_rule(item, egress, deny, namespace) for item in items)
        ports = tuple(rule for rule in found if rule is not None)
    if "icmps" in fields and fields["icmps"].items():
        if ports is not None:
            field.error("toPorts and icmps in one entry", "write one entry of the list for each")
        rule = parse_icmps(fields["icmps"])
        ports = (rule,) if rule is not None else ()
    if peers is None and ports is None:
        peers = Peers()  # an entry that names nothing selects nobody: the default-deny idiom
    return Entry(deny, peers, ports, field.path, field.line)


def _authentication(field: Field, deny: bool) -> None:
    if deny:
        field.error("authentication is not possible in a deny rule", "remove it")
    fields = field.mapping(("mode",))
    if fields is None:
        return
    if "mode" not in fields:
        field.error("authentication has no mode", "write mode: disabled")
        return
    if fields["mode"].choice(_Authentication, "mode") in (_Authentication.REQUIRED, _Authentication.TEST_ALWAYS_FAIL):
        field.unsupported(Feature.AUTHENTICATION)


def _default_deny(fields: dict[str, Field], sections: dict[str, list[Field]]) -> dict[Direction, bool]:
    """Per direction, whether the rule turns the default to deny: a rule with a section for it does unless told not."""
    given = fields["enableDefaultDeny"].mapping(("ingress", "egress")) if "enableDefaultDeny" in fields else None
    result = {}
    for direction in Direction:
        present = bool(sections[direction.value] or sections[f"{direction.value}Deny"])
        wanted = given[direction.value].boolean() if given and direction.value in given else None
        if given and wanted and not present:
            given[direction.value].warn(
                f"has no effect: the rule has no {direction} section", f"add {direction}: [{{}}] to deny everything"
            )
        result[direction] = present and wanted is not False
    return result


def _check_notes(fields: dict[str, Field]) -> None:
    """Fields that change no verdict; still nothing may hide in them."""
    if "description" in fields:
        fields["description"].text()
    if "log" in fields and (log := fields["log"].mapping(("value",))) and "value" in log:
        log["value"].text()
    for item in fields["labels"].items() if "labels" in fields else ():
        for field in (item.mapping(("key", "value", "source")) or {}).values():
            field.text()
