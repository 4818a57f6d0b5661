"""Envoy's reports of running streams."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from lockgate.envoy.config.access_log import SocketEnd
from lockgate.envoy.config.messages import access_log_service, core, protobuf, stream_log
from lockgate.envoy.config.running_stream import RunningStream, running_streams
from lockgate.policies.request import HttpRequest, TlsRequest

CLIENT, SERVER = SocketEnd(ip_address("10.0.0.1"), 40000), SocketEnd(ip_address("fd00::2"), 443)


def address(end: SocketEnd) -> core.Address:
    return core.Address(socket_address=core.SocketAddress(address=str(end.ip), port_value=end.port))


def entry(
    tls: stream_log.TlsProperties | None = None, source: SocketEnd | None = CLIENT, made_by: str = ""
) -> stream_log.HttpAccessLogEntry:
    common = stream_log.AccessLogCommon(
        downstream_direct_remote_address=address(source) if source else None,
        downstream_local_address=address(SERVER),
        tls_properties=tls,
        filter_state_objects=left({"lockgate.source": made_by}),
    )
    request = stream_log.HttpRequestProperties(authority="shop", path="/ws?x=1", request_headers={":method": "PURGE"})
    return stream_log.HttpAccessLogEntry(common_properties=common, request=request)


def left(state: dict[str, str]) -> dict[str, protobuf.Any]:
    return {key: protobuf.Any.pack(protobuf.StringValue(value=value)) for key, value in state.items() if value}


def message(*entries: stream_log.HttpAccessLogEntry) -> bytes:
    logs = access_log_service.StreamAccessLogsMessageHttpAccessLogEntries(log_entry=list(entries))
    return bytes(access_log_service.StreamAccessLogsMessage(http_logs=logs))


def test_what_a_report_says() -> None:
    plain = HttpRequest("PURGE", "/ws?x=1", "shop")
    inside = HttpRequest("PURGE", "/ws?x=1", "shop", server_name="shop.example", encrypted=True)
    tls = stream_log.TlsProperties(tls_sni_hostname="Shop.Example")
    found = running_streams(message(entry(), entry(tls)))
    assert found == tuple(RunningStream(CLIENT, SERVER, request) for request in (plain, inside))


@pytest.mark.parametrize(("text", "number"), [("23:70103:in", 70103), ("", 0), ("nobody", 0), ("1:x:in", 0)])
def test_who_made_the_connection(text: str, number: int) -> None:
    (found,) = running_streams(message(entry(made_by=text)))
    assert found.made_by == number


@pytest.mark.parametrize("name", ["shop.example", ""])
@pytest.mark.parametrize(("chain", "transport"), [("", ""), ("egress:tcp:a:b", "tls"), ("egress:tcp:plain:b", "plain")])
def test_what_a_report_of_a_connection_says(name: str, chain: str, transport: str) -> None:
    said = {"lockgate.greeting": name, "lockgate.chain": chain, "lockgate.transport": transport}
    common = stream_log.AccessLogCommon(
        downstream_direct_remote_address=address(CLIENT),
        downstream_local_address=address(SERVER),
        filter_state_objects=left(said),
    )
    logs = access_log_service.StreamAccessLogsMessageTcpAccessLogEntries(
        log_entry=[stream_log.TcpAccessLogEntry(common_properties=common)]
    )
    found = running_streams(bytes(access_log_service.StreamAccessLogsMessage(tcp_logs=logs)))
    request = TlsRequest(name, encrypted=transport != "plain")
    assert found == (RunningStream(CLIENT, SERVER, request, chain),)


def test_an_entry_without_an_end_is_left_out() -> None:
    assert running_streams(message(entry(source=None))) == ()
    assert running_streams(b"") == ()


def test_other_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        running_streams(b"\x12\xff")


def test_what_is_no_text_hides_nobody() -> None:
    """What a client says of itself is in the report as it came, beside what others do."""
    tls = stream_log.TlsProperties(tls_sni_hostname="#######", tls_session_id="#######")
    odd = entry(tls, made_by="23:70103:in")
    assert odd.request is not None
    odd.request.request_id = odd.request.user_agent = odd.request.authority = "#######"
    first, second = running_streams(message(odd, entry()).replace(b"#######", b"\xff\xc0\x80\xed\xa0\x80\xfe"))
    assert isinstance(first.request, HttpRequest)
    assert (first.source, first.request.path, first.made_by) == (CLIENT, "/ws?x=1", 70103)
    assert set(first.request.server_name) == set(first.request.host) == {"\ufffd"}
    assert second == RunningStream(CLIENT, SERVER, HttpRequest("PURGE", "/ws?x=1", "shop"))
