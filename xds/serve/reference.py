"""What a resource names: the other resources that must be there for it to work.

Read from the serialised message, so that nobody who makes resources has to declare it. Covered: endpoints and secrets
of clusters; routes, clusters, secrets and filter configs of listeners (HTTP and TCP); clusters of routes. A filter
config with a default is no need, for the default stands in its place. Only what comes by ADS counts, except that a
cluster is named without saying where it comes from.
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from ..errors import WireError
from ..type_url import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET, TYPES
from ..wire import fields

Reference: TypeAlias = tuple[str, str]
"""(type URL, name)"""

_NOTHING: frozenset[Reference] = frozenset()
_EDS = 3  # Cluster.DiscoveryType
_ADS, _SELF = 3, 5  # fields of ConfigSource


def references(type_url: str, body: bytes) -> frozenset[Reference]:
    """What the resource names; nothing when its bytes are no message."""
    read = _READERS.get(type_url)
    if read is None:
        return _NOTHING
    try:
        return frozenset(read(body))
    except (WireError, UnicodeDecodeError):
        return _NOTHING


def addresses(listener: bytes) -> frozenset[bytes]:
    """Where a serialised listener listens, each an envoy.config.core.v3.Address; nothing when its bytes are none."""
    try:
        return frozenset((*_parts(listener, 2), *_parts(listener, 33, 1)))
    except WireError:
        return frozenset()


def _parts(message: bytes, *path: int) -> Iterator[bytes]:
    """All submessages, strings or bytes at the end of a path of field numbers."""
    for number, value in fields(message, "resource"):
        if number == path[0] and isinstance(value, bytes):
            if len(path) == 1:
                yield value
            else:
                yield from _parts(value, *path[1:])


def _text(message: bytes, *path: int) -> str:
    found = ""
    for value in _parts(message, *path):
        found = value.decode()
    return found


def _from_ads(source: bytes) -> bool:
    return any(number in (_ADS, _SELF) for number, _ in fields(source, "ConfigSource"))


def _by_ads(type_url: str, message: bytes, source: int, name: int) -> Iterator[Reference]:
    """A name beside a config source."""
    if any(_from_ads(each) for each in _parts(message, source)) and (found := _text(message, name)):
        yield type_url, found


def _cluster(body: bytes) -> Iterator[Reference]:
    kind = next((value for number, value in fields(body, "Cluster") if number == 2), 0)
    if kind == _EDS:
        for config in _parts(body, 3):
            if any(_from_ads(source) for source in _parts(config, 1)):
                yield ENDPOINTS, _text(config, 2) or _text(body, 1)
    for socket in (*_parts(body, 24), *_parts(body, 43, 3)):
        yield from _transport_socket(socket)


def _listener(body: bytes) -> Iterator[Reference]:
    for chain in (*_parts(body, 3), *_parts(body, 25)):
        for network_filter in _parts(chain, 3):
            yield from _typed(network_filter, 4)
            yield from _discovered(network_filter, 5)
        for socket in _parts(chain, 6):
            yield from _transport_socket(socket)
    for listener_filter in _parts(body, 9):
        yield from _discovered(listener_filter, 5)
    for api in _parts(body, 19):
        yield from _typed(api, 1)


def _typed(message: bytes, field: int) -> Iterator[Reference]:
    for packed in _parts(message, field):
        read = _PACKED.get(_text(packed, 1))
        if read is not None:
            for value in _parts(packed, 2):
                yield from read(value)


def _discovered(message: bytes, field: int) -> Iterator[Reference]:
    for source in _parts(message, field):
        if not any(True for _ in _parts(source, 2)):  # default_config
            yield from ((FILTER_CONFIG, _text(message, 1)) for each in _parts(source, 1) if _from_ads(each))


def _http(manager: bytes) -> Iterator[Reference]:
    for rds in _parts(manager, 3):
        yield from _by_ads(ROUTE, rds, 1, 2)
    for inline in _parts(manager, 4):
        yield from _routes(inline)
    for http_filter in _parts(manager, 5):
        yield from _discovered(http_filter, 5)


def _tcp(proxy: bytes) -> Iterator[Reference]:
    for name in (*_parts(proxy, 2), *_parts(proxy, 10, 1, 1)):
        yield CLUSTER, name.decode()


def _routes(body: bytes) -> Iterator[Reference]:
    for action in _parts(body, 2, 3, 2):
        for name in (*_parts(action, 1), *_parts(action, 3, 1, 1), *_parts(action, 30, 1)):
            yield CLUSTER, name.decode()


def _transport_socket(socket: bytes) -> Iterator[Reference]:
    yield from _typed(socket, 3)


def _tls(context: bytes) -> Iterator[Reference]:
    for common in _parts(context, 1):
        for secret in (*_parts(common, 6), *_parts(common, 7), *_parts(common, 8, 2)):
            yield from _by_ads(SECRET, secret, 2, 1)


def _downstream_tls(context: bytes) -> Iterator[Reference]:
    yield from _tls(context)
    for tickets in _parts(context, 5):
        yield from _by_ads(SECRET, tickets, 2, 1)


_Reader: TypeAlias = Callable[[bytes], Iterator[Reference]]
_READERS: Mapping[str, _Reader] = {CLUSTER: _cluster, LISTENER: _listener, ROUTE: _routes}
_EXTENSIONS = TYPES + "envoy.extensions."
_PACKED: Mapping[str, _Reader] = {
    _EXTENSIONS + "filters.network.http_connection_manager.v3.HttpConnectionManager": _http,
    _EXTENSIONS + "filters.network.tcp_proxy.v3.TcpProxy": _tcp,
    _EXTENSIONS + "transport_sockets.tls.v3.UpstreamTlsContext": _tls,
    _EXTENSIONS + "transport_sockets.tls.v3.DownstreamTlsContext": _downstream_tls,
}
