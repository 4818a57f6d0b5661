"""Flows to be judged: who wants to reach whom, where, and with which request."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Any

from .endpoint_policy import LAST_PORT, Protocol
from .errors import FlowError
from .frontends import NOBODY
from .identity import RESERVED_NAMES, IPNetwork, Reserved
from .kafka_api import API_KEYS
from .language.entry_fields import DEFAULT_NAMESPACE
from .language.fields import suggest
from .request import DnsRequest, HttpRequest, KafkaRequest, Request, TlsRequest
from .workload import Endpoint, IPAddress
from .world import World

REQUEST_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "http": ("method", "path", "host", "headers", "tls", "serverName"),
        "grpc": ("service", "method", "host", "headers", "tls", "serverName"),
        "kafka": ("apiKey", "apiVersion", "clientID", "topics"),
        "dns": ("name",),
        "tls": ("serverName",),
    }
)
_FIELDS = ("from", "to", "port", "protocol", *REQUEST_FIELDS)
_BROADCAST = frozenset({IPv4Address("255.255.255.255"), IPv4Address("0.0.0.0")})
_PORTLESS = frozenset({Protocol.ICMP, Protocol.ICMPV6})
_PROTOCOLS = {protocol.value.upper(): protocol for protocol in Protocol}


@dataclass(frozen=True, slots=True)
class Flow:
    """`source` and `destination` are namespace/name or the name of a workload, an IP address, or reserved:<name>.

    `port` is the destination's (the message type for ICMP); `request` None asks about the connection alone.
    """

    source: str
    destination: str
    port: int
    protocol: Protocol = Protocol.TCP
    request: Request | None = None

    @classmethod
    def from_json(cls, data: object) -> Flow:
        """A flow from decoded JSON: {"from", "to", "port", "protocol", and at most one of "http" {method, path, host,
        headers, tls, serverName}, "grpc" {service, method, host, headers, tls, serverName}, "kafka" {apiKey,
        apiVersion, clientID, topics}, "dns" {name}, "tls" {serverName}}. A serverName in "http" means tls. Raises
        FlowError with a sentence that names the field."""
        fields = _object(data, "the flow", _FIELDS)
        for name in ("from", "to", "port"):
            if name not in fields:
                raise FlowError(f"the flow has no '{name}'")
        given = [name for name in REQUEST_FIELDS if fields.get(name) is not None]
        if len(given) > 1:
            raise FlowError(f"the flow has both '{given[0]}' and '{given[1]}'; one request only")
        request = parse_request(given[0], fields[given[0]]) if given else None
        return cls(
            _text(fields, "from"),
            _text(fields, "to"),
            parse_port(fields["port"]),
            parse_protocol(fields.get("protocol", "TCP")),
            request,
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a flow as the world knows it; `identity` is what its peers see, of processes of the node the node.
    `endpoint` is None for an address or identity without a workload; `cut_off` says why whatever is there can talk to
    nobody."""

    name: str
    identity: int
    endpoint: Endpoint | None = None
    cut_off: str = ""


def find_peer(world: World, text: str, closed: Collection[IPNetwork] = ()) -> Peer:
    """The workload, address or reserved identity that `text` names. In `closed` networks there is nobody but endpoints
    of this node and the node itself; addresses that no packet may have are nobody's. Raises FlowError when nobody is
    called so."""
    address = _address(text)
    return _find_named(world, text, closed) if address is None else _find_address(world, text, address, closed)


def find_receiver(
    world: World, text: str, sender: Peer, protocol: Protocol, closed: Collection[IPNetwork] = ()
) -> Peer:
    """Who gets what `sender` sends to `text`: as `find_peer`, but for addresses that stand for everybody on a link
    (`is_everybodys` in bpf/address.h, `decide_host` in bpf/host.h). What others send there this node takes up, and what
    it sends there itself goes to the others."""
    address = _address(text)
    if address is None:
        return _find_named(world, text, closed)
    if sender.identity == Reserved.HOST:
        if address.is_unspecified:  # its sockets take it for their own loopback address
            return Peer(text, int(Reserved.HOST), world.host)
        if address in world.broadcasts:
            why = _cut_off(text, (address,), closed)
            return Peer(text, NOBODY, None, why) if why else Peer(text, int(Reserved.WORLD_IPV4))
    elif address.is_multicast or address in _BROADCAST:
        beyond = sender.endpoint is None or not sender.endpoint.local
        # What has no port and comes by an uplink is let be: routers, queries for groups.
        return Peer(text, int(Reserved.HOST), None if beyond and protocol in _PORTLESS else world.host)
    return _find_address(world, text, address, closed)


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _find_address(world: World, text: str, address: IPAddress, closed: Collection[IPNetwork]) -> Peer:
    if why := _on_no_packet(text, address):
        return Peer(text, NOBODY, None, why)
    number = world.identity_at(address)
    found = next((endpoint for endpoint in world.endpoints if address in endpoint.ips), None)
    if number != Reserved.HOST and (found is None or not found.local) and (why := _cut_off(text, (address,), closed)):
        return Peer(text, NOBODY, None, why)
    if found is not None:
        return Peer(found.key, found.identity, found)
    return Peer(text, number, world.host if number == Reserved.HOST else None)


def _find_named(world: World, text: str, closed: Collection[IPNetwork]) -> Peer:
    if not text.startswith("reserved:"):
        return _find_workload(world, text, closed)
    name = text.removeprefix("reserved:")
    if name not in RESERVED_NAMES:
        raise FlowError(f"unknown reserved identity '{name}'; use one of: {', '.join(RESERVED_NAMES)}")
    return Peer(text, int(RESERVED_NAMES[name]), world.host if RESERVED_NAMES[name] is Reserved.HOST else None)


def is_node(peer: Peer) -> bool:
    """Whether that is this node, as it calls itself or as others do."""
    if peer.identity == Reserved.HOST:
        return True
    address = _address(peer.name)
    return address is not None and address.is_loopback


def _on_no_packet(name: str, address: IPAddress) -> str:
    """Why no packet between two may have this address; empty when it may."""
    if address.is_loopback:
        return f"{name} is a loopback address: who asks for it asks itself, and the kernel drops it between two"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"{name} is an IPv4 address in IPv6 clothes, which the kernel drops; write {address.ipv4_mapped}"
    return ""


def _cut_off(name: str, addresses: Collection[IPAddress], closed: Collection[IPNetwork]) -> str:
    """Why nobody has these addresses; empty when one of them is in no closed network."""
    around = [next((network for network in closed if address in network), None) for address in addresses]
    if not around or None in around:
        return ""
    return (
        f"{name} is in {around[0]}, a network of a container engine or of this node's pods, and none of these that is "
        "known: the kernel drops what it sends and what is sent to it"
    )


def _find_workload(world: World, text: str, closed: Collection[IPNetwork]) -> Peer:
    if "/" in text:
        found = [endpoint] if (endpoint := world.endpoint(text)) is not None else []
    else:
        local = world.endpoint(f"{DEFAULT_NAMESPACE}/{text}")
        found = [local] if local is not None else [item for item in world.endpoints if item.workload.name == text]
    if len(found) > 1:
        keys = ", ".join(endpoint.key for endpoint in found[:5])
        raise FlowError(f"'{text}' is the name of several workloads ({keys}); write namespace/name")
    if not found:
        hint = suggest(text, tuple(endpoint.key for endpoint in world.endpoints)) if text else ""
        raise FlowError(f"no workload is called '{text}'{'; ' + hint if hint else ''}")
    endpoint = found[0]
    if not endpoint.local and (why := _cut_off(endpoint.key, endpoint.ips, closed)):
        return Peer(endpoint.key, NOBODY, None, why)
    return Peer(endpoint.key, int(Reserved.HOST) if endpoint.of_node else endpoint.identity, endpoint)


def parse_port(value: object) -> int:
    """A port as a number or as text. Raises FlowError."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_PORT:
        raise FlowError(f"'port' must be a number from 0 to {LAST_PORT}, not {value!r}")
    return value


def parse_protocol(value: object) -> Protocol:
    """A protocol by name, in whatever case. Raises FlowError."""
    if not isinstance(value, str):
        raise FlowError(f"'protocol' must be text, not {value!r}")
    if (protocol := _PROTOCOLS.get(value.upper())) is None:
        raise FlowError(f"unknown protocol '{value}'; use one of: {', '.join(Protocol)}")
    return protocol


def parse_api_key(value: object) -> int:
    """A Kafka API by number or name. Raises FlowError."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit():
            value = int(value[:6])
        elif value.lower() in API_KEYS:
            return API_KEYS[value.lower()]
        else:
            hint = suggest(value, tuple(API_KEYS))
            raise FlowError(f"unknown Kafka API '{value}'{'; ' + hint if hint else ''}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 32767:
        raise FlowError(f"'kafka.apiKey' must be a number or a name, not {value!r}")
    return value


def parse_request(kind: str, data: object) -> Request:
    """One of the requests in `REQUEST_FIELDS`, by its name, from decoded JSON. Raises FlowError."""
    fields = _object(data, f"'{kind}'", REQUEST_FIELDS[kind])
    server_name = _text(fields, "serverName", "").lower()
    encrypted = fields.get("tls", False)
    if not isinstance(encrypted, bool):
        raise FlowError(f"'{kind}.tls' must be true or false, not {encrypted!r}")
    encrypted = encrypted or bool(server_name)
    match kind:
        case "http":
            return HttpRequest(
                _text(fields, "method", "GET"),
                _text(fields, "path", "/"),
                _text(fields, "host", ""),
                _headers(fields.get("headers")),
                server_name,
                encrypted=encrypted,
            )
        case "grpc":
            path = f"/{_text(fields, 'service')}/{_text(fields, 'method')}"
            headers = {"content-type": "application/grpc", **_headers(fields.get("headers"))}
            return HttpRequest("POST", path, _text(fields, "host", ""), headers, server_name, encrypted=encrypted)
        case "kafka":
            if "apiKey" not in fields:
                raise FlowError("'kafka' has no 'apiKey'")
            topics = fields.get("topics") or []
            if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
                raise FlowError("'kafka.topics' must be a list of texts")
            _require_unicode("kafka.topics", *topics)
            version = fields.get("apiVersion", 0)
            if not isinstance(version, int) or isinstance(version, bool) or version < 0:
                raise FlowError("'kafka.apiVersion' must be a number")
            return KafkaRequest(
                parse_api_key(fields["apiKey"]), version, _text(fields, "clientID", ""), frozenset(topics)
            )
        case "dns":
            return DnsRequest(_text(fields, "name"))
        case _:
            return TlsRequest(server_name)


def _object(data: object, what: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise FlowError(f"{what} must be a JSON object")
    for key in data:
        if key not in known:
            hint = suggest(str(key), known)
            raise FlowError(f"{what} has an unknown field '{key}'{'; ' + hint if hint else ''}")
    return data


def _text(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if value is None:
        raise FlowError(f"'{name}' is missing")
    if not isinstance(value, str):
        raise FlowError(f"'{name}' must be text, not {value!r}")
    _require_unicode(name, value)
    return value


def _require_unicode(name: str, *texts: str) -> None:
    """Raises FlowError for bytes of a command line that are not UTF-8, and for half a surrogate pair in JSON."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise FlowError(f"'{name}' is not Unicode; in a path write other bytes as %FF") from None


def _headers(data: object) -> dict[str, str]:
    """Names are lower-cased; a list of values, or a name twice in different case, is joined with ","."""
    found: dict[str, str] = {}
    if data is None:
        return found
    if not isinstance(data, dict):
        raise FlowError("'headers' must be a JSON object of names and values")
    for name, value in data.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise FlowError(f"the header {name!r} must be text or a list of texts")
        _require_unicode("headers", str(name), *values)
        key = str(name).lower()
        found[key] = ",".join([found[key], *values] if key in found else values)
    return found
