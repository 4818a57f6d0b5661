"""Clusters that speak TLS with the server: one for each secret that policies name for it (originatingTLS).

The server's certificate must come from the secret's authority and be for the name that the client called: that of its
greeting, or the Host of its request.
"""

from __future__ import annotations

from dataclasses import dataclass

from .http_listener import UPSTREAM_OPTIONS, HttpListener, http1, http2, original_destination_cluster
from .messages import core, protobuf, tls, upstream_http
from .sds import from_sds


@dataclass(frozen=True, slots=True)
class Originating:
    """`trusted_ca` and `certificate` (the client's, empty for none) are SDS names."""

    name: str
    trusted_ca: str
    certificate: str = ""


def originating_cluster(settings: HttpListener, wanted: Originating) -> bytes:
    """A serialised Cluster that connects to where the client wanted to go."""
    context = tls.UpstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            tls_certificate_sds_secret_configs=[from_sds(wanted.certificate)] if wanted.certificate else [],
            validation_context_sds_secret_config=from_sds(wanted.trusted_ca),
        ),
    )
    options = upstream_http.HttpProtocolOptions(
        common_http_protocol_options=core.HttpProtocolOptions(max_headers_count=settings.max_headers),
        upstream_http_protocol_options=core.UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True),
        # The server says (ALPN) which it speaks, whatever the client does.
        auto_config=upstream_http.HttpProtocolOptionsAutoHttpConfig(
            http_protocol_options=http1(), http2_protocol_options=http2()
        ),
    )
    cluster = original_destination_cluster(settings)
    cluster.name = wanted.name
    cluster.typed_extension_protocol_options = {UPSTREAM_OPTIONS: protobuf.Any.pack(options)}
    cluster.transport_socket = core.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=protobuf.Any.pack(context)
    )
    return bytes(cluster)
