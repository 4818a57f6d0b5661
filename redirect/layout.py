"""Keys and values of the maps as bytes: the mirror of the structs in bpf/maps.h and bpf/service_maps.h."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Generic, NamedTuple, TypeVar

from ..policies.identity import IPNetwork
from ..policies.service import Backend, Frontend
from ..policies.workload import IPAddress
from .alias import Slot
from .plan import Effect, EndpointPolicies, Owner, PolicyKey, Verdict
from .port_prefix import PROTOCOL_NUMBERS, PortPrefix
from .reason import Reason

K = TypeVar("K")
V = TypeVar("V")

_POLICY_BITS = 72  # policy, identity and the zero byte stand before protocol and port
_MAPPED = IPv6Network("::ffff:0:0/96")
_POLICY_KEY = struct.Struct("=III4s")
_POLICY_VALUE = struct.Struct(">BBH")
_PREFIX = struct.Struct("=I16s")
_NAME = struct.Struct("=I16s")  # of an interface
_TWO_WORDS = struct.Struct("=II")
_WORD = struct.Struct("=I")
_CONFIG = struct.Struct("=I2s?x")
_FRONTEND = struct.Struct(">16sHBx")
_BACKEND = struct.Struct(">16sH2x")
_LONG = struct.Struct("=Q")
_PROTOCOLS = {number: protocol for protocol, number in PROTOCOL_NUMBERS.items()}


class Config(NamedTuple):
    """`revision` counts changes; `reset_port` is a listener's on loopback, 0 for none. `asks_makers`: Envoy
    can tell who comes with the node's address, by who made the connection."""

    revision: int
    reset_port: int
    asks_makers: bool = False


class Table(NamedTuple):
    """Where the kernel looks for a backend: the number of a table of slots, and how many it has (0: nobody serves)."""

    number: int
    slots: int


class SlotKey(NamedTuple):
    """One slot of a table."""

    table: int
    slot: int


class Serving(NamedTuple):
    """One backend of a service's address and port."""

    frontend: Frontend
    backend: Backend


@dataclass(frozen=True)
class Codec(Generic[K, V]):
    """How one map's entries look to the kernel. `name` is the map's name in the C source and below the pin folder."""

    name: str
    key_size: int
    value_size: int
    encode_key: Callable[[K], bytes]
    decode_key: Callable[[bytes], K]
    encode_value: Callable[[V], bytes]
    decode_value: Callable[[bytes], V]


def _encode_policy_key(key: PolicyKey) -> bytes:
    return _POLICY_KEY.pack(
        _POLICY_BITS + key.ports.length, key.policy, key.identity, key.ports.bits.to_bytes(4, "big")
    )


def _decode_policy_key(data: bytes) -> PolicyKey:
    length, policy, identity, ports = _POLICY_KEY.unpack(data)
    return PolicyKey(policy, identity, PortPrefix(length - _POLICY_BITS, int.from_bytes(ports, "big")))


def _encode_effect(effect: Effect) -> bytes:
    return _POLICY_VALUE.pack(effect.verdict, 0, effect.proxy_port)


def _decode_effect(data: bytes) -> Effect:
    verdict, _, proxy_port = _POLICY_VALUE.unpack(data)
    return Effect(Verdict(verdict), proxy_port)


def _encode_prefix(network: IPNetwork) -> bytes:
    if isinstance(network, IPv4Network):
        address = int(_MAPPED.network_address) | int(network.network_address)
        return _PREFIX.pack(_MAPPED.prefixlen + network.prefixlen, address.to_bytes(16, "big"))
    return _PREFIX.pack(network.prefixlen, network.network_address.packed)


def _decode_prefix(data: bytes) -> IPNetwork:
    length, address = _PREFIX.unpack(data)
    v4 = IPv6Address(address).ipv4_mapped
    if length >= _MAPPED.prefixlen and v4 is not None:
        return IPv4Network((v4, length - _MAPPED.prefixlen))
    return IPv6Network((address, length))


def _encode_name(name: str) -> bytes:
    return _NAME.pack(8 * len(name), name.encode())


def _decode_name(data: bytes) -> str:
    length, name = _NAME.unpack(data)
    return str(name[: length // 8].decode())


def _decode_config(data: bytes) -> Config:
    revision, port, asks_makers = _CONFIG.unpack(data)
    return Config(revision, int.from_bytes(port, "big"), asks_makers)


def packed(address: IPAddress) -> bytes:
    """As the maps have it: IPv4 mapped into IPv6."""
    return address.packed if address.version == 6 else (int(_MAPPED.network_address) | int(address)).to_bytes(16, "big")


def unpacked(data: bytes) -> IPAddress:
    """The other way round."""
    address = IPv6Address(data)
    return address.ipv4_mapped or address


def _encode_frontend(frontend: Frontend | IPAddress) -> bytes:
    if isinstance(frontend, Frontend):
        return _FRONTEND.pack(packed(frontend.ip), frontend.port, PROTOCOL_NUMBERS[frontend.protocol])
    return _FRONTEND.pack(packed(frontend), 0, 0)


def _decode_frontend(data: bytes) -> Frontend | IPAddress:
    address, port, protocol = _FRONTEND.unpack(data)
    return Frontend(unpacked(address), port, _PROTOCOLS[protocol]) if protocol else unpacked(address)


def _encode_backend(backend: Backend) -> bytes:
    return _BACKEND.pack(packed(backend.ip), backend.port)


def _decode_backend(data: bytes) -> Backend:
    address, port = _BACKEND.unpack(data)
    return Backend(unpacked(address), port)


def _decode_serving(data: bytes) -> Serving:
    address, port, protocol = _FRONTEND.unpack(data[: _FRONTEND.size])
    return Serving(Frontend(unpacked(address), port, _PROTOCOLS[protocol]), _decode_backend(data[_FRONTEND.size :]))


def _encode_slot(slot: Slot[Backend]) -> bytes:
    return _WORD.pack(slot.share) + _encode_backend(slot.own) + _encode_backend(slot.other)


def _decode_slot(data: bytes) -> Slot[Backend]:
    end = _WORD.size + _BACKEND.size
    return Slot(_word(data[: _WORD.size]), _decode_backend(data[_WORD.size : end]), _decode_backend(data[end:]))


def _word(data: bytes) -> int:
    return int(_WORD.unpack(data)[0])


POLICY = Codec[PolicyKey, Effect](
    "policy",
    _POLICY_KEY.size,
    _POLICY_VALUE.size,
    _encode_policy_key,
    _decode_policy_key,
    _encode_effect,
    _decode_effect,
)
IPCACHE = Codec[IPNetwork, Owner](
    "ipcache",
    _PREFIX.size,
    _TWO_WORDS.size,
    _encode_prefix,
    _decode_prefix,
    lambda owner: _TWO_WORDS.pack(owner.identity, owner.ifindex),
    lambda data: Owner(*_TWO_WORDS.unpack(data)),
)
ENDPOINTS = Codec[int, EndpointPolicies](
    "endpoints",
    _WORD.size,
    _TWO_WORDS.size,
    _WORD.pack,
    _word,
    lambda policies: _TWO_WORDS.pack(policies.ingress, policies.egress),
    lambda data: EndpointPolicies(*_TWO_WORDS.unpack(data)),
)
CONFIG = Codec[int, Config](  # the one key is 0
    "config",
    _WORD.size,
    _CONFIG.size,
    _WORD.pack,
    _word,
    lambda config: _CONFIG.pack(config.revision, config.reset_port.to_bytes(2, "big"), config.asks_makers),
    _decode_config,
)
GENERATION_NAME = "ipcache_generation"
SERVICE_CLIENTS = Codec[int, int](  # cookies of network namespaces
    "service_clients",
    _LONG.size,
    _WORD.size,
    _LONG.pack,
    lambda data: int(_LONG.unpack(data)[0]),
    _WORD.pack,
    _word,
)
SERVICE_FRONTENDS = Codec[Frontend | IPAddress, Table](  # an address alone: no other port of it is served
    "service_frontends",
    _FRONTEND.size,
    _TWO_WORDS.size,
    _encode_frontend,
    _decode_frontend,
    lambda table: _TWO_WORDS.pack(*table),
    lambda data: Table(*_TWO_WORDS.unpack(data)),
)
SERVICE_SLOTS = Codec[SlotKey, Slot[Backend]](
    "service_slots",
    _TWO_WORDS.size,
    _WORD.size + 2 * _BACKEND.size,
    lambda key: _TWO_WORDS.pack(*key),
    lambda data: SlotKey(*_TWO_WORDS.unpack(data)),
    _encode_slot,
    _decode_slot,
)
SERVICE_BACKENDS = Codec[Serving, int](  # weights
    "service_backends",
    _FRONTEND.size + _BACKEND.size,
    _WORD.size,
    lambda serving: _encode_frontend(serving.frontend) + _encode_backend(serving.backend),
    _decode_serving,
    _WORD.pack,
    _word,
)
SERVICE_FLOWS_NAME = "service_flows"
PUBLISHED_NODE = Codec[int, int](  # the one key is 0
    "published_node",
    _WORD.size,
    _LONG.size,
    _WORD.pack,
    _word,
    _LONG.pack,
    lambda data: int(_LONG.unpack(data)[0]),
)
ENGINE_BRIDGES = Codec[int, int]("engine_bridges", _WORD.size, _WORD.size, _WORD.pack, _word, _WORD.pack, _word)
ENGINE_NAMES = Codec[int, int]("engine_names", _WORD.size, _WORD.size, _WORD.pack, _word, _WORD.pack, _word)
POLICED_PORTS = Codec[int, int]("policed_ports", _WORD.size, _WORD.size, _WORD.pack, _word, _WORD.pack, _word)
SEEN_INTERFACES = Codec[int, int]("seen_interfaces", _WORD.size, _WORD.size, _WORD.pack, _word, _WORD.pack, _word)
POD_INTERFACES = Codec[str, int](  # see unseen.py
    "pod_interfaces", _NAME.size, _WORD.size, _encode_name, _decode_name, _WORD.pack, _word
)
POD_PREFIXES = Codec[IPNetwork, int](
    "pod_prefixes", _PREFIX.size, _WORD.size, _encode_prefix, _decode_prefix, _WORD.pack, _word
)
FAR_ENDS = Codec[int, int]("far_ends", _WORD.size, _WORD.size, _WORD.pack, _word, _WORD.pack, _word)
COUNTERS_NAME = "counters"
COUNTERS = 2 * len(Reason)
CONNECTIONS_NAME = "connections"
SENDERS_NAME = "senders"
DROPS_NAME, DROPS_KEPT = "drops", 128  # records for each CPU
DROP_CURSOR_NAME = "drop_cursor"
DROP = struct.Struct("=Q16s16s4sIBBB5x")  # at, src, dst, ports, ifindex, protocol, reason, hook

SIZES = {  # (key, value) in bytes, of every map
    **{codec.name: (codec.key_size, codec.value_size) for codec in (POLICY, IPCACHE, ENDPOINTS, CONFIG)},
    GENERATION_NAME: (4, 8),
    COUNTERS_NAME: (4, 8),
    CONNECTIONS_NAME: (40, 32),
    SENDERS_NAME: (4, 4),
    DROPS_NAME: (4, DROP.size),
    DROP_CURSOR_NAME: (4, 4),
    **{
        codec.name: (codec.key_size, codec.value_size)
        for codec in (SERVICE_CLIENTS, SERVICE_FRONTENDS, SERVICE_SLOTS, SERVICE_BACKENDS)
    },
    SERVICE_FLOWS_NAME: (32, _BACKEND.size),
    **{
        codec.name: (codec.key_size, codec.value_size)
        for codec in (PUBLISHED_NODE, ENGINE_BRIDGES, ENGINE_NAMES, POLICED_PORTS, FAR_ENDS)
    },
    **{codec.name: (codec.key_size, codec.value_size) for codec in (SEEN_INTERFACES, POD_INTERFACES, POD_PREFIXES)},
}
# Nobody writes these but programs.
REMEMBERING = frozenset({CONNECTIONS_NAME, SENDERS_NAME, COUNTERS_NAME, DROPS_NAME, DROP_CURSOR_NAME})
