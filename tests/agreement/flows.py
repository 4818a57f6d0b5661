"""Flows near the places where a policy changes its mind: at the edges of port ranges and prefixes, and requests that
just match or just do not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from random import Random
from typing import Any

from lockgate.policies import Direction, Endpoint, Flow, Protocol, ResolvedRule, World
from lockgate.policies.endpoint_policy import LAST_PORT, HttpRules, TlsRules
from lockgate.policies.interception import Greeting, encrypts
from lockgate.policies.workload import IPAddress
from lockgate.tests.agreement.author import Hints, Wish
from lockgate.tests.agreement.case import HOSTS
from lockgate.tests.agreement.exchange import Wire
from lockgate.tests.agreement.expectation import Expectation
from lockgate.tests.agreement.patterns import Pattern
from lockgate.tests.agreement.requests import call
from lockgate.tests.agreement.vocabulary import HTTP_METHODS, SERVER_NAMES, VALUES

_STRANGERS = tuple(map(ip_address, ("203.0.113.9", "198.51.100.7", "10.99.0.1", "2001:db8:ffff::9", "fd99::1")))
_PATHS = ("/", "/a", "/api/v1/users", "/x?q=1")
_HOSTS = ("api", "example.com", "a.example.org:8080")
_PROTOCOLS = (*[Protocol.TCP] * 7, Protocol.UDP, Protocol.SCTP, Protocol.ICMP)
_CANDIDATES = 3  # flows to choose each one from
_SHARES = {"redirected": 0.5, "denied": 0.23, "allowed": 0.23, "unserved": 0.04}
_PATH = re.compile(r"/[!-\"$-~]*")  # what can be written into the first line of a request
_TWISTS = ("/./", "/x/../", "//", "/%2e/", "%41", "%2F", "/..;a/", "\\")  # what Envoy makes plain, or refuses
_PATH_OF_HTTP2 = re.compile(r"/[ -~é]*")
_TWISTS_OF_HTTP2 = ("é", "#", " ", "/é/../")
_WIRES = (*[Wire.HTTP1] * 9, *[Wire.HTTP2] * 6, *[Wire.EITHER] * 3)
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?")
_SET_BY_THE_CLIENT = frozenset({"host", "content-length"})  # and pseudo headers: never sent as headers


def flows(random: Random, world: World, hints: Hints, number: int) -> list[dict[str, Any]]:
    """`number` flows: half of them through Envoy where there are so many, the others allowed and denied."""
    targets = _Targets(random, world, hints)
    by_word: dict[str, list[_Target]] = {}
    for _ in range(number * _CANDIDATES):
        target = targets.draw()
        word = Expectation.of(world, Flow.from_json(target.flow)).word
        by_word.setdefault(word, []).append(target)
    chosen: list[_Target] = []
    for word, share in _SHARES.items():
        found = by_word.get(word, [])
        chosen += found[: round(number * share)]
        by_word[word] = found[round(number * share) :]
    rest = [target for found in by_word.values() for target in found]
    chosen = chosen[:number] + random.sample(rest, max(0, number - len(chosen)))
    return [_with_all(random, target, hints) if target.flow["protocol"] == "TCP" else target.flow for target in chosen]


def _with_all(random: Random, target: _Target, hints: Hints) -> dict[str, Any]:
    """With a request, maybe in TLS, in one of HTTP's versions."""
    wish = target.wish or _any_wish(random, hints)
    grpc = random.random() < (0.8 if wish.grpc else 0.04)
    wire = Wire.HTTP2 if grpc else random.choice(_WIRES)
    flow = _with_request(random, target.flow, wish, wire)
    if grpc:
        headers = flow["http"].get("headers", {})
        flow["http"]["headers"] = {**headers, "content-type": "application/grpc", "te": "trailers"}
    flow = _greeted(random, flow, target, hints)
    if wire is not Wire.HTTP1:
        flow["wire"] = wire.value
    return flow


def _any_wish(random: Random, hints: Hints) -> Wish:
    if hints.wishes and random.random() < 0.85:
        return random.choice(hints.wishes)
    return Wish()


def _icmp_types(named: set[int], version: int) -> list[int]:
    """Without errors, which belong to another packet, and without the link's own affairs (neighbour discovery)."""
    never = {3, 11, 12} if version == 4 else {1, 2, 3, 4, 133, 134, 135, 136, 137}
    return sorted({*named, 0, 8, 42, 129} - never)


@dataclass(frozen=True, slots=True)
class _Target:
    """A flow without a request, and the condition and what is said about TLS that it was aimed at."""

    flow: dict[str, Any]
    wish: Wish | None = None
    tls: TlsRules | None = None


class _Targets:
    """Flows of which at least one end is on this node: aimed at a rule, or at random."""

    def __init__(self, random: Random, world: World, hints: Hints) -> None:
        self._random = random
        self._icmp = hints.icmp
        self._wishes = {wish.key: wish for wish in hints.wishes}
        self._ports = sorted(set(_near(hints.ports)))
        self._local = [endpoint for endpoint in world.endpoints if endpoint.local and endpoint.ips]
        managed = [ip for endpoint in world.endpoints for ip in endpoint.ips]
        near = {address for network in hints.networks for address in _edges(network) if _usable(address)}
        others = sorted({*near, *_STRANGERS, *HOSTS} - set(managed), key=lambda ip: (ip.version, int(ip)))
        self._addresses = {version: [ip for ip in others if ip.version == version] for version in (4, 6)}
        self._managed = {version: [ip for ip in managed if ip.version == version] for version in (4, 6)}
        self._by_identity: dict[int, list[IPAddress]] = {}
        for ip in (*managed, *others):
            self._by_identity.setdefault(world.identity_at(ip), []).append(ip)
        self._rules = [
            (endpoint, direction, rule)
            for endpoint in self._local
            for direction in Direction
            for rule in world.policy_of(endpoint).direction(direction).rules
            if rule.peers is None or rule.peers & self._by_identity.keys()
        ]
        self._redirecting = [each for each in self._rules if each[2].redirects]

    def draw(self) -> _Target:
        kind = self._random.random()
        if self._redirecting and kind < 0.6:
            return self._aimed(*self._random.choice(self._redirecting)) or self._any()
        if self._rules and kind < 0.8:
            return self._aimed(*self._random.choice(self._rules)) or self._any()
        return self._any()

    def _aimed(self, endpoint: Endpoint, direction: Direction, rule: ResolvedRule) -> _Target | None:
        own = self._random.choice(endpoint.ips)
        if rule.peers is None:
            others = self._managed[own.version] + self._addresses[own.version]
        else:
            listed = sorted(rule.peers & self._by_identity.keys())
            others = [ip for number in listed for ip in self._by_identity[number] if ip.version == own.version]
        if not others:
            return None
        hosts = [ip for ip in others if ip in HOSTS]
        other = self._random.choice(hosts if hosts and self._random.random() < 0.1 else others)
        source, destination = (own, other) if direction is Direction.EGRESS else (other, own)
        if not rule.ports:
            return self._at(source, destination)
        span = self._random.choice(rule.ports)
        if span.protocol in (Protocol.ICMP, Protocol.ICMPV6):
            kinds = _icmp_types({span.first}, own.version)
            kind = span.first if span.first in kinds and self._random.random() < 0.6 else self._random.choice(kinds)
            return self._at(source, destination, Protocol.ICMP, kind)
        port = self._random.choice((span.first, span.last, *_near((span.first, span.last))))
        wish = None
        if isinstance(rule.l7, HttpRules) and rule.l7.http:
            http = self._random.choice(rule.l7.http)
            wish = self._wishes.get((http.method, http.path, http.host))
        elif isinstance(rule.l7, HttpRules) and rule.l7.grpc:
            grpc = self._random.choice(rule.l7.grpc)
            wish = call(grpc.service, grpc.method)
        return self._at(source, destination, span.protocol, port, wish, rule.tls)

    def _any(self) -> _Target:
        one = self._random.choice(self._random.choice(self._local).ips)
        kind = self._random.random()
        if kind < 0.1:
            other = next(ip for ip in HOSTS if ip.version == one.version)
        else:
            other = self._random.choice((self._managed if kind < 0.6 else self._addresses)[one.version])
        return self._at(*((one, other) if self._random.random() < 0.6 else (other, one)))

    def _at(
        self,
        source: IPAddress,
        destination: IPAddress,
        protocol: Protocol | None = None,
        port: int | None = None,
        wish: Wish | None = None,
        tls: TlsRules | None = None,
    ) -> _Target:
        protocol = protocol or self._random.choice(_PROTOCOLS)
        if port is None:
            icmp = protocol is Protocol.ICMP
            port = self._random.choice(_icmp_types(self._icmp, source.version) if icmp else self._ports)
        if protocol is Protocol.ICMP and source.version == 6:
            protocol = Protocol.ICMPV6
        flow = {"from": str(source), "to": str(destination), "port": port, "protocol": protocol.value}
        return _Target(flow, wish, tls)


def _near(ports: Iterable[int]) -> Iterable[int]:
    """Each port and its neighbours, without 0, which no connection has."""
    return (port + step for port in ports for step in (-1, 0, 1) if 0 < port + step <= LAST_PORT)


def _edges(network: Any) -> Iterable[IPAddress]:
    """The first and the last address of a prefix, and their neighbours outside."""
    whole = ip_network((0 if network.version == 4 else IPv6Address(0), 0))
    first, last = int(network.network_address), int(network.broadcast_address)
    address = IPv4Address if network.version == 4 else IPv6Address
    for number in (first - 1, first, (first + last) // 2, last, last + 1):
        if 0 <= number <= int(whole.broadcast_address):
            yield address(number)


def _usable(address: IPAddress) -> bool:
    """False for addresses that no connection has."""
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
        return False
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped is None
    return not address.is_reserved and int(address) >> 24 != 0


def _greeted(random: Random, flow: dict[str, Any], target: _Target, hints: Hints) -> dict[str, Any]:
    """The same inside TLS, where the rule that it was aimed at is about that, and now and then where it is not."""
    encrypted, name = _greeting(random, target.tls) if target.tls is not None else _stray(random, hints)
    if not encrypted:
        return flow
    if random.random() < 0.3:
        return {**{key: value for key, value in flow.items() if key != "http"}, "tls": {"serverName": name}}
    return {**flow, "http": {**flow["http"], "tls": True, **({"serverName": name} if name else {})}}


def _greeting(random: Random, tls: TlsRules) -> Greeting:
    if (random.random() < 0.9) is not encrypts(tls):
        return Greeting(False)
    kind = random.random()
    if kind < 0.15:
        return Greeting(True)
    wanted = [known for pattern, known in SERVER_NAMES.items() if pattern.lower().rstrip(".") in tls.server_names]
    if not wanted or kind < 0.25:
        return Greeting(True, _any_name(random))
    samples, misses = random.choice(wanted)
    return Greeting(True, random.choice(misses if misses and kind < 0.4 else samples))


def _stray(random: Random, hints: Hints) -> Greeting:
    if random.random() > (0.12 if hints.tls else 0.03):
        return Greeting(False)
    return Greeting(True, random.choice(("", _any_name(random))))


def _any_name(random: Random) -> str:
    samples, misses = random.choice(tuple(SERVER_NAMES.values()))
    return random.choice((*samples, *misses))


def _with_request(random: Random, flow: dict[str, Any], wish: Wish, wire: Wire) -> dict[str, Any]:
    spoilt = random.choice(("", "", "method", "path", "path", "path", "host", "headers", "headers"))

    def value(name: str, wanted: Pattern | None, others: Sequence[str]) -> str:
        if wanted is None or not wanted.samples:
            return random.choice(others)
        if spoilt != name:
            return random.choice(wanted.samples)
        if wanted.misses and random.random() < 0.7:
            return random.choice(wanted.misses)
        return _mutated(random, random.choice(wanted.samples))

    method = value("method", wish.method, HTTP_METHODS)
    path = value("path", wish.path, _PATHS)
    if random.random() < 0.08:
        path = _twisted(random, path, _TWISTS + _TWISTS_OF_HTTP2 if wire is Wire.HTTP2 else _TWISTS)
    host = value("host", wish.host, _HOSTS)
    headers: dict[str, str | list[str]] = {}
    for name, wanted in wish.headers:
        off = spoilt == "headers" or (name in wish.changing and random.random() < 0.5)
        _add_header(random, headers, name, wanted, off)
    if random.random() < 0.2:
        headers.setdefault(random.choice(("x-team", "X-Debug", "cookie")), random.choice(VALUES))
    possible = _PATH_OF_HTTP2 if wire is Wire.HTTP2 else _PATH
    request: dict[str, Any] = {
        "method": method if method in HTTP_METHODS else "GET",
        "path": next((each for each in (path, f"/{path}") if possible.fullmatch(each)), "/"),
        "host": host if _PLAIN_HOST.fullmatch(host) else "api",
    }
    for name, wanted in wish.headers:  # conditions on what is no header of its own
        if wanted is not None and spoilt != "headers":
            if name == ":method" and wanted in HTTP_METHODS:
                request["method"] = wanted
            if name in (":authority", "host") and _PLAIN_HOST.fullmatch(wanted):
                request["host"] = wanted
    if headers:
        request["headers"] = {
            name: value
            for name, value in headers.items()
            if not _has_no_route(name, value) and not (wire is Wire.EITHER and _crumbled(name, value))
        }
    return {**flow, "http": request}


def _add_header(
    random: Random, headers: dict[str, str | list[str]], name: str, wanted: str | None, spoilt: bool
) -> None:
    if name.lower() in _SET_BY_THE_CLIENT or name.startswith(":"):
        return
    written = random.choice((name, name.upper(), name.lower()))
    if any(each.lower() == name.lower() for each in headers):
        return
    if spoilt:
        kind = random.randrange(4)
        if kind == 0:
            return
        if kind == 1:
            headers[written] = [wanted or "1", random.choice(VALUES)]
            return
        headers[written] = random.choice(VALUES) if wanted is None or kind == 2 else _mutated(random, wanted).strip()
        return
    if wanted is not None and "," in wanted and random.random() < 0.5:
        headers[written] = wanted.split(",")
    else:
        headers[written] = wanted if wanted is not None else random.choice((*VALUES, ""))


def _has_no_route(name: str, value: str | list[str]) -> bool:
    """Envoy answers 404 to a request with an empty X-Forwarded-Proto, before any policy is asked."""
    return name.lower() == "x-forwarded-proto" and not "".join(value)


def _crumbled(name: str, value: str | list[str]) -> bool:
    """A cookie that HTTP/1.1 and HTTP/2 have differently."""
    return name.lower() == "cookie" and (not value or isinstance(value, list))


def _twisted(random: Random, path: str, twists: Sequence[str]) -> str:
    at = random.randint(1, len(path)) if path else 0
    return path[:at] + random.choice(twists) + path[at:]


def _mutated(random: Random, text: str) -> str:
    match random.randrange(8):
        case 0:
            return text[:-1]
        case 1:
            return text + random.choice("a/0?")
        case 2:
            return text.swapcase()
        case 3:
            return text + "?q=1"
        case 4:
            return text + "/x"
        case 5 if text:
            at = random.randrange(len(text))
            return text[:at] + random.choice("ab1-.") + text[at + 1 :]
        case 6 if text:
            at = random.randrange(len(text))
            return text[:at] + text[at + 1 :]
    return random.choice("ax/") + text
