"""Reading `rules` of a toPorts entry: http, grpc, kafka or dns, one kind only."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..dns_name import canonical_pattern
from ..endpoint_policy import DnsRule, DnsRules, GrpcRule, KafkaRule, KafkaRules, MismatchAction
from ..header_action import UNCHANGEABLE
from ..kafka_api import API_KEYS, ROLE_KEYS, Role
from ..model import L7, HeaderCondition, HttpCondition, HttpConditions, SecretRef
from ..regex import LONGEST, MOST_INSTRUCTIONS, measured
from ..secret import value_fault
from .fields import Field, shorten, suggest
from .pattern_lint import host_warning, path_warning
from .unsupported import Feature

KINDS = ("http", "grpc", "kafka", "dns")
_PATTERN_WARNINGS: dict[str, Callable[[str], tuple[str, str] | None]] = {
    "path": path_warning,
    "method": lambda _: None,
    "host": host_warning,
}
_CHANGING = (MismatchAction.ADD, MismatchAction.DELETE, MismatchAction.REPLACE)
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,255}")
_GRPC_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_GRPC_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r":?[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_DNS_NAME = re.compile(r"[-a-zA-Z0-9_]+(?:\.[-a-zA-Z0-9_]+)*\.?")
_DNS_PATTERN = re.compile(r"[-a-zA-Z0-9_.*]+")


def parse_l7(field: Field, namespace: str) -> L7 | None:
    """The request rules; None when there are none (`http: []` is no rule, `http: [{}]` is every request)."""
    fields = field.mapping((*KINDS, "l7proto", "l7"))
    if fields is None:
        return None
    field.warn_of_nulls()
    for name in ("l7proto", "l7"):
        if name in fields:
            fields[name].unsupported(Feature.PROXYLIB)
    kinds = [name for name in KINDS if name in fields and fields[name].items()]
    if len(kinds) > 1:
        field.error(f"{kinds[0]} and {kinds[1]} in one rules", "give each its own toPorts entry and port")
    if not kinds:
        return None
    items = fields[kinds[0]].items()
    match kinds[0]:
        case "http":
            http = (_http(item, namespace) for item in items)
            return HttpConditions(http=tuple(rule for rule in http if rule is not None))
        case "grpc":
            fields["grpc"].unsupported(Feature.GRPC_RULES)
            grpc = (_grpc(item) for item in items)
            return HttpConditions(grpc=tuple(rule for rule in grpc if rule is not None))
        case "kafka":
            fields["kafka"].unsupported(Feature.KAFKA_RULES)
            kafka = (_kafka(item) for item in items)
            return KafkaRules(tuple(rule for rule in kafka if rule is not None))
        case _:
            dns = (parse_dns_name(item) for item in items)
            return DnsRules(tuple(rule for rule in dns if rule is not None))


def _http(field: Field, namespace: str) -> HttpCondition | None:
    fields = field.mapping(("path", "method", "host", "headers", "headerMatches"))
    if fields is None:
        return None
    field.warn_of_nulls()
    headers = [_header(item) for item in fields["headers"].items()] if "headers" in fields else []
    if "headerMatches" in fields:
        headers += [_header_match(item, namespace) for item in fields["headerMatches"].items()]
    path, method, host = (_regex(fields, name) for name in ("path", "method", "host"))
    return HttpCondition(path, method, host, tuple(header for header in headers if header is not None))


def _regex(fields: dict[str, Field], name: str) -> str | None:
    """A regular expression; empty is the same as absent."""
    text = fields[name].text() if name in fields else None
    if not text:
        return None
    findings = fields[name].findings
    if findings.instructions > MOST_INSTRUCTIONS:
        return text  # it has been told, and nothing more is tried
    if len(text) > LONGEST:
        fields[name].error(f"a regular expression of more than {LONGEST} characters", "write several rules")
        return text
    reason, instructions = measured(text)
    findings.instructions += instructions
    if findings.instructions > MOST_INSTRUCTIONS:
        fields[name].error(
            f"up to here the regular expressions of the policy come to more than {MOST_INSTRUCTIONS} instructions",
            "write smaller repetitions and fewer classes of letters, or several policies",
        )
    elif reason is not None:
        fields[name].error(
            f"'{shorten(text)}' is not a regular expression that Envoy accepts: {shorten(reason)}",
            "use RE2 syntax (no look-ahead, look-behind or back-references)",
        )
    elif (warning := _PATTERN_WARNINGS[name](text)) is not None:
        fields[name].warn(*warning)
    return text


def _header(field: Field) -> HeaderCondition | None:
    """`K: v` asks for the exact value, `K` for presence. Without the blank, `K:v` is a header called `K:v`."""
    text = field.text()
    if text is None:
        return None
    if not text.strip():
        field.error("an empty header", "write 'Name: value' or 'Name'")
        return None
    name, blank, value = text.partition(" ")
    if not name.strip(":"):
        field.error(f"'{shorten(text)}' names no header", "write 'Name: value' or 'Name'")
        return None
    if not blank:
        if ":" in name[1:]:
            field.warn(
                f"'{shorten(text)}' asks for a header with exactly that name, which no request has",
                f"write '{shorten(name.replace(':', ': ', 1).strip())}' with a blank after the colon",
            )
        else:
            _warn_of_name(field, name)
        return HeaderCondition(name.lower())
    if value != value.strip():
        field.warn(
            f"'{shorten(text)}' asks for a value with blanks around it, which no request has",
            f"write '{shorten(name)} {shorten(value.strip())}'",
        )
    name = name.rstrip(":")
    _warn_of_name(field, name)
    return HeaderCondition(name.lower(), value)


def _warn_of_name(field: Field, name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        field.warn(f"no request has a header called '{shorten(name)}'", "use letters, digits and '-'")


def _header_match(field: Field, namespace: str) -> HeaderCondition | None:
    fields = field.mapping(("name", "value", "secret", "mismatch"))
    if fields is None:
        return None
    name = fields["name"].text() if "name" in fields else None
    if not name:
        if "name" not in fields or name == "":
            field.error("the header match has no name", "write name: and the header's name")
        return None
    if not _HEADER_NAME.fullmatch(name):
        fields["name"].error(f"'{shorten(name)}' is not a header name", "write the name alone, without colon or value")
        return None
    mismatch: MismatchAction | None = MismatchAction.DENY
    if "mismatch" in fields:
        mismatch = fields["mismatch"].choice(MismatchAction, "mismatch action")
    mismatch = mismatch or MismatchAction.DENY
    if mismatch in _CHANGING and (name.startswith(":") or name.lower() in UNCHANGEABLE):
        fields["name"].error(
            f"mismatch {mismatch} cannot change the header '{name}', which the request is forwarded by",
            "leave mismatch out, or use LOG",
        )
    value = _header_value(fields["value"]) if "value" in fields else None
    secret = None
    if "secret" in fields:
        secret = parse_secret_ref(fields["secret"], namespace)
    if mismatch is MismatchAction.DELETE and not value and "secret" not in fields:
        fields["mismatch"].warn("DELETE without a value deletes nothing", "write the value that the header may keep")
    return HeaderCondition(name.lower(), value or None, secret, mismatch)


def _header_value(field: Field) -> str | None:
    value = field.text()
    if value is None:
        return None
    if fault := value_fault(value):
        field.error(f"the value {fault}", "write a value that a header can have")
    elif value != value.strip():
        field.warn("the value has a blank at one end, which no request's header has", "remove the blank")
    return value


def parse_secret_ref(field: Field, namespace: str) -> SecretRef | None:
    """{namespace, name}; the namespace defaults to the policy's."""
    fields = field.mapping(("namespace", "name"))
    if fields is None:
        return None
    name = fields["name"].text() if "name" in fields else None
    if not name:
        field.error("the secret has no name", "write name: and the secret's name")
        return None
    where = fields["namespace"].text() if "namespace" in fields else None
    return SecretRef(where or namespace or "default", name)


def _grpc(field: Field) -> GrpcRule | None:
    fields = field.mapping(("service", "method"))
    if fields is None:
        return None
    service = fields["service"].text() if "service" in fields else None
    if not service:
        field.error("the grpc rule has no service", "write service: package.Service")
        return None
    if not _GRPC_SERVICE.fullmatch(service):
        fields["service"].error(f"'{shorten(service)}' is not a gRPC service", "write package.Service, without slashes")
        return None
    method = fields["method"].text() if "method" in fields else None
    if method and not _GRPC_METHOD.fullmatch(method):
        fields["method"].error(f"'{shorten(method)}' is not a gRPC method", "write the method's bare name")
        return None
    if (known := field.findings.grpc) is not None:
        if service not in known.methods:
            fields["service"].error(
                f"the descriptors have no service '{shorten(service)}'", suggest(service, tuple(known.methods))
            )
            return None
        if method and method not in known.methods[service]:
            names = tuple(sorted(known.methods[service]))
            fields["method"].error(
                f"{shorten(service)} has no method '{shorten(method)}'", suggest(method, names, always=True)
            )
            return None
    return GrpcRule(service, method or None)


def _kafka(field: Field) -> KafkaRule | None:
    fields = field.mapping(("role", "apiKey", "apiVersion", "clientID", "topic"))
    if fields is None:
        return None
    field.warn_of_nulls()
    if "role" in fields and "apiKey" in fields:
        field.error("role and apiKey exclude each other", "write the role, or the one API key")
    keys: frozenset[int] = frozenset()
    if "role" in fields:
        role = fields["role"].choice(Role, "role")
        keys = ROLE_KEYS[role] if role is not None else keys
    elif "apiKey" in fields:
        text = fields["apiKey"].text()
        if text:
            if (number := API_KEYS.get(text.lower())) is None:
                fields["apiKey"].error(f"unknown apiKey '{shorten(text)}'", suggest(text, tuple(API_KEYS)))
            else:
                keys = frozenset({number})
    version = None
    if "apiVersion" in fields:
        text = fields["apiVersion"].text()
        if text and not (text.isascii() and text.isdigit() and int(text[:6]) <= 32767):
            fields["apiVersion"].error(f"'{shorten(text)}' is not an API version", 'write a number in quotes: "3"')
        elif text:
            version = int(text)
    client = fields["clientID"].text() if "clientID" in fields else None
    topic = fields["topic"].text() if "topic" in fields else None
    if topic and not _TOPIC.fullmatch(topic):
        fields["topic"].error(
            f"'{shorten(topic)}' is not a Kafka topic", "use at most 255 letters, digits, '.', '_' and '-'"
        )
    return KafkaRule(keys, version, client or None, topic or None)


def parse_dns_name(field: Field) -> DnsRule | None:
    """{matchName} or {matchPattern}, as in toFQDNs and dns rules."""
    fields = field.mapping(("matchName", "matchPattern"))
    if fields is None:
        return None
    read = {name: item.text() for name, item in fields.items()}
    texts = {name: text for name, text in read.items() if text}
    if len(texts) != 1:
        if None not in read.values():  # that has been told
            field.error("exactly one of matchName and matchPattern is needed", "write one of them")
        return None
    (name, text) = texts.popitem()
    valid = _DNS_NAME if name == "matchName" else _DNS_PATTERN
    if len(text) > 255 or not valid.fullmatch(text):
        hint = (
            "write a DNS name; patterns go into matchPattern"
            if name == "matchName"
            else "use letters, digits, '-', '.' and '*'"
        )
        fields[name].error(f"'{shorten(text)}' is not a DNS {'name' if name == 'matchName' else 'pattern'}", hint)
        return None
    text = text.lower().removesuffix(".")
    return DnsRule(match_name=text) if name == "matchName" else DnsRule(match_pattern=canonical_pattern(text))
