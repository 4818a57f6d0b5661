"""The transparent TLS listener of the node: what connections pass whose TLS a rule speaks about.

One on loopback for both address families. It comes by LDS, so that a node without the agent's word has none, and the
kernel then drops what it would send there. A matcher that the agent adds (xds/compile/tls_chain.py) sends each
connection to a filter chain, by its addresses and its greeting:

encrypted     TLS goes on end to end; policies judge by the server name (SNI), once
own_address   made to the listener itself: closed
taken up      one chain for each way in which policies have Envoy take part: TLS with the client by a certificate of
              theirs, TLS with the server, or both; HTTP requests judged by policy slots, or only bytes carried

Envoy drains the connections of chains that change or go; whatever else changes, it keeps all others.
https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/tls_inspector
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from .access_log import CONNECTION_FORMAT, GREETING
from .connection_limit import connection_limit
from .http_listener import (
    BUFFER,
    ORIGINAL_DESTINATION,
    HttpListener,
    connection_manager,
    policy_slots,
)
from .identity_filter import Ipcache
from .messages import (
    accesslog,
    cel_filter,
    core,
    file_access_log,
    listener,
    network_rbac,
    protobuf,
    rbac,
    tcp_proxy,
    tls,
    tls_inspector,
    xds_core,
    xds_matcher,
)
from .module_filter import module_filter
from .own_address import refuse_own_address
from .policy_slot import NOT_SYNCED, policy_source
from .running_stream import REPORT_SECONDS, TRANSPORT, WAS_PLAIN, WAS_TLS, greeting_reports, kept, set_state
from .sds import from_sds
from .transparent_listener import listener_filter, transparent_listener

NAME = "lockgate.tls"
RBAC_TYPE_URL = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
NO_TIMEOUT = timedelta(0)
_GREETING = timedelta(seconds=15)  # for the whole ClientHello
_MOST_EARLY_DATA = 65536  # bytes of the client's that wait for the server


@dataclass(frozen=True, slots=True)
class TlsListener:
    """The TLS listener's settings. The slots are ECDS resource names of network RBAC filters. `http` are the settings
    of chains that read requests; its slots are names of HTTP RBAC filters, beside each of which is one called
    NAME.headers of the type Composite, for what the policy does to headers."""

    port: int = 15002
    egress_slot: str = "lockgate.tls.egress"
    ingress_slot: str = "lockgate.tls.ingress"
    taken_slot: str = "lockgate.tls.taken.ingress"  # for what does not look as the client greeted any more
    http: HttpListener = field(
        default_factory=lambda: HttpListener(
            egress_slot="lockgate.tls.http.egress", ingress_slot="lockgate.tls.http.ingress"
        )
    )
    first_policy_timeout: float = 15.0  # seconds; the listener stays closed so long, then opens and denies
    mark: int = 0xA00  # SO_MARK of upstream sockets
    backlog: int = 4096
    connections_per_client: int = 0  # as of HttpListener
    heap: int = 0  # likewise


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A filter chain for connections that the policy of the client (`egress`) or of the server has Envoy take up.

    `certificate` and `client_ca` are the SDS names of what the client is shown (empty: there is no TLS with it) and of
    whom it must have its own certificate from (empty: none is asked for). `upstream` is the cluster; `encrypts` when
    that speaks TLS.
    """

    name: str
    egress: bool
    http: bool
    certificate: str = ""
    client_ca: str = ""
    upstream: str = ORIGINAL_DESTINATION
    encrypts: bool = False


def tls_listener(settings: TlsListener, access_log: Path, ipcache: Ipcache) -> bytes:
    """The serialised Listener called NAME, with the chains that are always there and without a matcher, which is to be
    appended. Denials of connections are logged to `access_log`."""
    return bytes(_listener(settings, access_log, ipcache))


def taken_up_chain(settings: TlsListener, access_log: Path, wanted: TakenUp) -> bytes:
    """A serialised FilterChain, to be appended to a listener."""
    return bytes(_taken_up(settings, access_log, wanted))


def _listener(settings: TlsListener, access_log: Path, ipcache: Ipcache) -> listener.Listener:
    # The last two are for nobody: their HTTP slots are there to have their policies before the first connection.
    waiting = [TakenUp(f"waiting:{direction}", direction == "egress", True) for direction in ("egress", "ingress")]
    chains = [
        _encrypted(settings, access_log),
        _by_name(refuse_own_address(settings.port)),
        *(_taken_up(settings, access_log, each) for each in waiting),
    ]
    inspector = listener_filter("tls_inspector", tls_inspector.TlsInspector())
    return transparent_listener(
        NAME, settings, ipcache, chains, greeting=[inspector], greeting_timeout=_GREETING, buffer=BUFFER
    )


def _encrypted(settings: TlsListener, access_log: Path) -> listener.FilterChain:
    """Judges by the greeting and then only carries bytes."""
    remember, reports = greeting_reports()
    return listener.FilterChain(
        name="encrypted",
        filters=[
            *connection_limit(settings.connections_per_client, settings.heap),
            _policy_slot(settings.egress_slot, settings.first_policy_timeout),
            _policy_slot(settings.ingress_slot, settings.first_policy_timeout),
            remember,
            _call_nobody_else(),
            _carry(ORIGINAL_DESTINATION, access_log, reports),
        ],
    )


def _call_nobody_else() -> listener.Filter:
    """The module's filter that ends a connection whose client greets again with another server name, or where nobody
    can see with which (envoy/module/greeting)."""
    name = "lockgate.greeting"
    return listener.Filter(name=name, typed_config=protobuf.Any.pack(module_filter(name)))


def _carry(upstream: str, access_log: Path, reports: accesslog.AccessLog) -> listener.Filter:
    proxy = tcp_proxy.TcpProxy(
        stat_prefix="lockgate_tls",
        cluster=upstream,
        idle_timeout=NO_TIMEOUT,
        # Policies judge at the first byte, and no server may notice a connection before.
        upstream_connect_mode=tcp_proxy.UpstreamConnectMode.ON_DOWNSTREAM_DATA,
        max_early_data_bytes=_MOST_EARLY_DATA,
        access_log=[_denied_log(access_log), reports],
        access_log_options=tcp_proxy.TcpProxyTcpAccessLogOptions(
            access_log_flush_interval=timedelta(seconds=REPORT_SECONDS)
        ),
    )
    return listener.Filter(name="envoy.filters.network.tcp_proxy", typed_config=protobuf.Any.pack(proxy))


def _taken_up(settings: TlsListener, access_log: Path, wanted: TakenUp) -> listener.FilterChain:
    """The other direction judges the connection: the client's by what it greeted with, the server's by the same if that
    is how it goes on. The own direction judges requests; where there are none, it chose this chain for them."""
    if not wanted.egress:
        other = settings.egress_slot
    else:
        other = settings.ingress_slot if wanted.certificate and wanted.encrypts else settings.taken_slot
    filters = [
        *connection_limit(settings.connections_per_client, settings.heap),
        _policy_slot(other, settings.first_policy_timeout),
    ]
    filters.append(_remember_how_it_began(wanted))
    if wanted.http:
        slot = settings.http.egress_slot if wanted.egress else settings.http.ingress_slot
        policy = policy_slots(slot, settings.http.first_policy_timeout)
        manager = connection_manager(settings.http, access_log, policy, wanted.upstream, changes_transport=True)
        filters.append(
            listener.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=protobuf.Any.pack(manager)
            )
        )
    else:
        remember, reports = greeting_reports(wanted.name)
        filters += [remember, _carry(wanted.upstream, access_log, reports)]
    socket = core.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=protobuf.Any.pack(_with_the_client(wanted))
    )
    return listener.FilterChain(
        name=wanted.name, filters=filters, transport_socket=socket if wanted.certificate else None
    )


def _with_the_client(wanted: TakenUp) -> tls.DownstreamTlsContext:
    # Envoy's order counts. A server that cannot be asked what it speaks gets HTTP/2 only of clients that speak nothing
    # else (gRPC's).
    protocols = (["h2", "http/1.1"] if wanted.encrypts else ["http/1.1", "h2"]) if wanted.http else []
    return tls.DownstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=protocols,
            tls_certificate_sds_secret_configs=[from_sds(wanted.certificate)],
            validation_context_sds_secret_config=from_sds(wanted.client_ca) if wanted.client_ca else None,
        ),
        require_client_certificate=True if wanted.client_ca else None,
    )


def _remember_how_it_began(wanted: TakenUp) -> listener.Filter:
    """Policies judge requests also by whether they came in TLS (xds/compile/tls_verdict.py). And where the server is
    spoken TLS with, the server name of the client's greeting is that of Envoy's, and what the server's certificate must
    be for; without one the cluster takes the request's Host."""
    values = [kept(TRANSPORT, WAS_TLS if wanted.certificate else WAS_PLAIN)]
    if wanted.encrypts:
        for key in ("envoy.network.upstream_server_name", "envoy.network.upstream_subject_alt_names"):
            name = kept(key, "%REQUESTED_SERVER_NAME%")
            name.factory_key, name.skip_if_empty = "", True
            values.append(name)
    return set_state(values)


def _by_name(chain: listener.FilterChain) -> listener.FilterChain:
    """The chain without a match of its own: the listener's matcher names it."""
    chain.filter_chain_match = None
    return chain


def _policy_slot(name: str, first_policy_timeout: float) -> listener.Filter:
    return listener.Filter(
        name=name,
        config_discovery=policy_source(deny_all_connections(), first_policy_timeout, RBAC_TYPE_URL),
    )


def deny_all_connections() -> network_rbac.Rbac:
    """The policy of a slot that has none yet."""
    deny = xds_core.TypedExtensionConfig(
        name="envoy.filters.rbac.action",
        typed_config=protobuf.Any.pack(rbac.Action(name=NOT_SYNCED, action=rbac.RbacAction.DENY)),
    )
    return network_rbac.Rbac(
        matcher=xds_matcher.Matcher(on_no_match=xds_matcher.MatcherOnMatch(action=deny)),
        stat_prefix="lockgate_tls_unsynced.",
    )


def _denied_log(path: Path) -> accesslog.AccessLog:
    # By what ended the connection: the metadata by which HTTP's denials are told is not there.
    ended = (f"connection.termination_details.startsWith('{how}')" for how in ("rbac_access_denied", GREETING))
    denied = cel_filter.ExpressionFilter(expression=" || ".join(ended))
    return accesslog.AccessLog(
        name="envoy.access_loggers.file",
        filter=accesslog.AccessLogFilter(
            extension_filter=accesslog.ExtensionFilter(
                name="envoy.access_loggers.extension_filters.cel", typed_config=protobuf.Any.pack(denied)
            )
        ),
        typed_config=protobuf.Any.pack(
            file_access_log.FileAccessLog(
                path=str(path),
                log_format=core.SubstitutionFormatString(
                    json_format=protobuf.Struct.from_dict(dict(CONNECTION_FORMAT))
                ),
            )
        ),
    )
