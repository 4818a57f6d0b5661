"""Requests that mean one thing to a proxy and another to a server, sent as bytes through the real Envoy.

The server keeps every byte it gets. A trick has failed when all that it got, read as strictly as one can, are requests
that the policy allows, each of them one that the client may have made on its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.field import L7, Field, Recorder, field, listen

HOST = b"Host: x\r\n"
END = b"\r\n\r\n"
EVIL = b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n"
# What the policy of the field allows: the request line, and the headers that must or must not be there.
ALLOWED = {
    b"GET /allowed": {},
    b"GET /secret": {b"x-role": b"admin"},
    b"GET /host": {b"host": b"good"},
}


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field() as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(ground: Field) -> None:
    ground.record.forget()


class Stream:
    """HTTP/1.1 read as strictly as one can: whatever a server might read otherwise is an AssertionError."""

    def __init__(self, data: bytes) -> None:
        self._left = data
        self.requests: list[tuple[bytes, dict[bytes, bytes]]] = []
        while self._left:
            self._request()

    def _request(self) -> None:
        head, separator, self._left = self._left.partition(END)
        assert separator, head
        line, *fields = head.split(b"\r\n")
        assert re.fullmatch(rb"[A-Z]+ /[!-~]* HTTP/1\.1", line), line
        assert not re.search(rb"[\x00-\x08\n\r\x0b-\x1f\x7f]", b"".join(fields)), fields
        headers: dict[bytes, bytes] = {}
        for field_line in fields:
            match = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)", field_line)
            assert match, field_line
            name = match[1].lower()
            headers[name] = headers[name] + b"," + match[2] if name in headers else match[2]
        self.requests.append((line.rpartition(b" ")[0], headers))
        assert not {b"content-length", b"transfer-encoding"} <= headers.keys(), headers
        if b"transfer-encoding" in headers:
            assert headers[b"transfer-encoding"] == b"chunked", headers
            self._chunks()
        elif b"content-length" in headers:
            assert headers[b"content-length"].isdigit(), headers
            self._left = self._left[int(headers[b"content-length"]) :]  # or it never comes whole

    def _chunks(self) -> None:
        while True:
            size, separator, self._left = self._left.partition(b"\r\n")
            if not separator and not size:
                return  # it never comes whole
            assert separator, size
            assert re.fullmatch(rb"[0-9a-fA-F]+", size), size
            length = int(size, 16)
            assert self._left[length : length + 2] == b"\r\n"
            self._left = self._left[length + 2 :]
            if not length:
                return


def check(record: Recorder) -> list[bytes]:
    """What reached the server, as request lines without the version; fails when it is not allowed."""
    found = []
    for taken in list(record.taken):
        for line, headers in Stream(bytes(taken)).requests:
            assert line in ALLOWED, line
            assert ALLOWED[line].items() <= headers.items(), (line, headers)
            found.append(line)
    return found


PATHS = {
    "dot dot": b"/allowed/../forbidden",
    "encoded dots": b"/allowed/%2e%2e/forbidden",
    "half encoded dots": b"/allowed/.%2E/forbidden",
    "dots above the root": b"/../../forbidden",
    "double encoded dots": b"/allowed/%252e%252e/forbidden",
    "double slash": b"//forbidden",
    "slash before": b"//allowed//",
    "slash after": b"/allowed/",
    "dot after": b"/forbidden/.",
    "parameter": b"/allowed;/../forbidden",
    "parameter after": b"/allowed;jsessionid=1",
    "dots with a parameter": b"/allowed/..;/forbidden",
    "encoded dots with a parameter": b"/allowed/%2e%2e;x/forbidden",
    "backslash": b"/allowed\\..\\forbidden",
    "encoded slash": b"/allowed%2f..%2fforbidden",
    "encoded backslash": b"/allowed%5c..%5cforbidden",
    "query": b"/allowed?/../forbidden",
    "encoded query": b"/allowed%3f",
    "fragment": b"/allowed#/../forbidden",
    "encoded nul": b"/allowed%00/../forbidden",
    "encoded newline": b"/allowed%0d%0aX: y",
    "overlong utf-8": b"/allowed/%c0%ae%c0%ae/forbidden",
    "upper case": b"/ALLOWED",
    "absolute": b"http://x/forbidden",
    "absolute with user": b"http://x@y/forbidden",
    "absolute without path": b"http://x",
    "no slash": b"forbidden",
    "asterisk": b"*",
    "empty": b"",
    "tab": b"/allowed\t/forbidden",
    "space": b"/allowed /forbidden",
    "nul": b"/allowed\x00",
    "bytes": b"/allowed\xff",
}


@pytest.mark.parametrize("path", PATHS)
def test_paths(ground: Field, path: str) -> None:
    ground.say(0, b"GET " + PATHS[path] + b" HTTP/1.1\r\n" + HOST + b"\r\n", 0.5)
    assert check(ground.record) == []


def test_paths_that_are_another_way_of_writing_the_allowed_one(ground: Field) -> None:
    """They reach the server as what was judged."""
    for path in (b"/allowed", b"/x/../allowed", b"//allowed", b"/%61llowed", b"http://x/allowed", b"/./allowed"):
        assert ground.say(1, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n", 0.5).startswith(b"HTTP/1.1 200"), path
    assert check(ground.record) == [b"GET /allowed"] * 6


def framed(*headers: bytes, body: bytes) -> bytes:
    """An allowed request with these framing headers."""
    return b"GET /allowed HTTP/1.1\r\n" + HOST + b"\r\n".join(headers) + END + body


CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = {
    "length and chunks": framed(b"Content-Length: 4", CHUNKED, body=b"0\r\n\r\n" + EVIL),
    "chunks and length": framed(CHUNKED, b"Content-Length: 99", body=b"0\r\n\r\n" + EVIL),
    "two lengths": framed(b"Content-Length: 0", b"Content-Length: 38", body=EVIL),
    "a list of lengths": framed(b"Content-Length: 0, 38", body=EVIL),
    "a signed length": framed(b"Content-Length: +38", body=EVIL),
    "a negative length": framed(b"Content-Length: -1", body=EVIL),
    "a hexadecimal length": framed(b"Content-Length: 0x26", body=EVIL),
    "a long length": framed(b"Content-Length: 18446744073709551616", body=EVIL),
    "a length with a blank": framed(b"Content-Length : 38", body=EVIL),
    "chunks with a blank": framed(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + EVIL),
    "chunks with a tab": framed(b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n" + EVIL),
    "chunks of an unknown kind": framed(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + EVIL),
    "chunks twice": framed(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n" + EVIL),
    "chunks in a list": framed(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + EVIL),
    "chunks in a folded line": framed(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + EVIL),
    "chunks after a vertical tab": framed(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + EVIL),
    "a chunk's size with more": framed(CHUNKED, body=b"0;x=\r\nGET /forbidden HTTP/1.1\r\n\r\n" + EVIL),
    "a chunk's size with a blank": framed(CHUNKED, body=b"0 \r\n\r\n" + EVIL),
    "a chunk's size that wraps": framed(CHUNKED, body=b"10000000000000000\r\n\r\n" + EVIL),
    "a chunk's size in 0x": framed(CHUNKED, body=b"0x0\r\n\r\n" + EVIL),
    "bare newlines": b"GET /allowed HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + EVIL,
    "a bare return": b"GET /allowed HTTP/1.1\r\nHost: x\rX: y\r\n\r\n" + EVIL,
    "a newline in a header": framed(b"X: y\nContent-Length: 38", body=EVIL),
    "a blank line with a blank": b"GET /allowed HTTP/1.1\r\nHost: x\r\n \r\n\r\n" + EVIL,
    "no version": b"GET /forbidden\r\n" + EVIL,
    "an old version": b"GET /forbidden HTTP/0.9\r\n\r\n" + EVIL,
    "a new version": b"GET /allowed HTTP/1.2\r\n" + HOST + b"\r\n" + EVIL,
    "another version": b"GET /allowed HTTP/3.0\r\n" + HOST + b"\r\n" + EVIL,
    "two requests": framed(b"Content-Length: 0", body=EVIL),
    "expect": framed(b"Expect: 100-continue", b"Content-Length: 38", body=EVIL + EVIL),
}


@pytest.mark.parametrize("trick", SMUGGLED)
def test_smuggling(ground: Field, trick: str) -> None:
    answer = ground.say(0, SMUGGLED[trick], 0.5)
    assert set(check(ground.record)) <= {b"GET /allowed"}
    statuses = re.findall(rb"HTTP/1\.[01] (\d+)", answer)
    assert statuses.count(b"200") <= len(check(ground.record))


WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket")
UPGRADES = {
    "h2c": framed(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", body=b""
    )
    + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + EVIL,
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EVIL,
    "websocket": framed(b"Connection: Upgrade", b"Upgrade: websocket", body=EVIL),
    "websocket and a length": framed(*WEBSOCKET, b"Content-Length: 4", body=b"abcd" + EVIL),
    "websocket and no length": framed(*WEBSOCKET, b"Content-Length: 0", body=EVIL),
    "websocket and chunks": framed(*WEBSOCKET, CHUNKED, body=b"3\r\nabc\r\n0\r\n\r\n" + EVIL),
    "websocket and another": framed(*WEBSOCKET, b"Upgrade: h2c", body=EVIL),
    "websocket of HTTP/1.0": b"GET /allowed HTTP/1.0\r\n" + HOST + b"\r\n".join(WEBSOCKET) + END + EVIL,
    "unknown": framed(b"Connection: Upgrade", b"Upgrade: lockgate", body=EVIL),
    "tls": framed(b"Connection: Upgrade", b"Upgrade: TLS/1.0", body=EVIL),
    "hidden by connection": framed(b"Connection: host, x-role", body=b""),
    "connect": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + EVIL,
    "connect with a path": b"CONNECT /allowed HTTP/1.1\r\nHost: x:80\r\n\r\n" + EVIL,
    "trace": b"TRACE /allowed HTTP/1.1\r\n" + HOST + b"\r\n",
    "method override": framed(b"X-HTTP-Method-Override: DELETE", body=b""),
    "lower case": b"get /allowed HTTP/1.1\r\n" + HOST + b"\r\n",
    "another method": b"GETT /allowed HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("trick", UPGRADES)
def test_upgrades_and_methods(ground: Field, trick: str) -> None:
    ground.say(0, UPGRADES[trick], 0.5)
    assert set(check(ground.record)) <= {b"GET /allowed"}
    assert b"h2c" not in ground.record.everything()


def secret(*headers: bytes) -> bytes:
    """A request that the policy allows with `X-Role: admin` only."""
    return b"GET /secret HTTP/1.1\r\n" + HOST + b"\r\n".join(headers) + END


HEADERS = {
    "underscore": secret(b"X_Role: admin"),
    "blank before the colon": secret(b"X-Role : admin"),
    "blank in front": secret(b" X-Role: admin"),
    "another first": secret(b"X-Role: user", b"X-Role: admin"),
    "another last": secret(b"X-Role: admin", b"X-Role: user"),
    "twice": secret(b"X-Role: admin", b"x-role: admin"),
    "upper case value": secret(b"X-Role: ADMIN"),
    "nul": secret(b"X-Role: admin\x00"),
    "nul in the name": secret(b"X-Role\x00: admin"),
    "list": secret(b"X-Role: admin, user"),
    "quoted": secret(b'X-Role: "admin"'),
    "in a trailer": b"GET /secret HTTP/1.1\r\n" + HOST + CHUNKED + END + b"0\r\nX-Role: admin\r\n\r\n",
    "two hosts": b"GET /host HTTP/1.1\r\nHost: good\r\nHost: evil\r\n\r\n",
    "two hosts, the good one last": b"GET /host HTTP/1.1\r\nHost: evil\r\nHost: good\r\n\r\n",
    "host and absolute form": b"GET http://evil/host HTTP/1.1\r\nHost: good\r\n\r\n",
    "host with a blank": b"GET /host HTTP/1.1\r\nHost : good\r\n\r\n",
    "host with a port": b"GET /host HTTP/1.1\r\nHost: good:80\r\n\r\n",
    "host with a user": b"GET /host HTTP/1.1\r\nHost: good@evil\r\n\r\n",
    "no host": b"GET /host HTTP/1.1\r\n\r\n",
    "forwarded host": b"GET /host HTTP/1.1\r\nHost: evil\r\nX-Forwarded-Host: good\r\n\r\n",
    "envoy's own path": b"GET /forbidden HTTP/1.1\r\nHost: x\r\nX-Envoy-Original-Path: /allowed\r\n\r\n",
    "path of another kind of proxy": b"GET /forbidden HTTP/1.1\r\nHost: x\r\nX-Original-URL: /allowed\r\n\r\n",
    "pseudo header": b"GET /forbidden HTTP/1.1\r\nHost: x\r\n:path: /allowed\r\n\r\n",
}


@pytest.mark.parametrize("trick", HEADERS)
def test_headers(ground: Field, trick: str) -> None:
    ground.say(0, HEADERS[trick], 0.5)
    assert check(ground.record) == []


def test_what_headers_may_look_like(ground: Field) -> None:
    """Names know no case, what stands about a value is not part of it, and a folded line arrives as one."""
    for header in (b"X-Role: admin", b"x-ROLE:admin", b"X-Role: \t admin \t ", b"X-Role:\r\n admin"):
        assert ground.say(0, secret(header), 0.5).startswith(b"HTTP/1.1 200"), header
    assert ground.say(0, b"GET /host HTTP/1.1\r\nHost: good\r\n\r\n", 0.5).startswith(b"HTTP/1.1 200")
    assert sorted(check(ground.record)) == [b"GET /host"] + [b"GET /secret"] * 4


FORWARDED_FOR = [
    b"",
    *(
        b"X-Forwarded-For: " + each + b"\r\n"
        for each in (b"10.0.0.1", b"127.0.0.1", b"::1", b"255.255.255.255", b"1.1.1.1, 255.255.255.255")
    ),
    b"X-Forwarded-For: " + b",".join([b"255.255.255.255"] * 4000) + b"\r\n",
    b"X-Forwarded-For: 255.255.255.255" + b"," * 60000 + b"\r\n",
    b"X-Envoy-Internal: true\r\n",
]


def test_nobody_commands_envoy(ground: Field) -> None:
    """A client whom Envoy took for one of its own could have it ask again and again, and keep statistics of whatever it
    names until the memory ends."""
    orders = b"X-Envoy-Upstream-Alt-Stat-Name: mine%d\r\nX-Envoy-Retry-On: 5xx\r\nX-Envoy-Max-Retries: 9\r\n\r\n"
    for number, client in enumerate(FORWARDED_FOR):
        ground.record.forget()
        head = b"GET /allowed HTTP/1.1\r\n" + HOST + client + orders % number
        assert ground.say(number % 2, head, 0.5).startswith(b"HTTP/1.1 200"), client
        assert check(ground.record) == [b"GET /allowed"]
        assert b"x-envoy" not in ground.record.everything().lower(), client
    assert ground.node.stat("mine[0-9]") == 0


OVERLONG = {
    "path": b"GET /allowed" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "path with dots": b"GET " + b"/a/.." * 20_000 + b"/forbidden HTTP/1.1\r\n" + HOST + b"\r\n",
    "header": b"GET /allowed HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000 + END,
    "headers": b"GET /allowed HTTP/1.1\r\n" + HOST + b"".join(b"X%d: y\r\n" % n for n in range(2000)) + b"\r\n",
    "method": b"G" * 200_000 + b" /allowed HTTP/1.1\r\n" + HOST + b"\r\n",
    "blank lines": b"\r\n" * 50_000 + EVIL,
}


@pytest.mark.parametrize("trick", OVERLONG)
def test_what_is_too_long(ground: Field, trick: str) -> None:
    answer = ground.say(0, OVERLONG[trick], 1.0)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert check(ground.record) == []
    assert ground.say(0, framed(b"Content-Length: 0", body=b""), 0.5).startswith(b"HTTP/1.1 200"), "Envoy lives on"


def test_a_request_that_never_ends_is_never_begun(ground: Field) -> None:
    with ground.connect(0, L7) as connection:
        connection.sendall(b"GET /allowed HTTP/1.1\r\n" + HOST + b"X: ")
        assert listen(connection, 0.5) == b""
    assert check(ground.record) == []
    assert b"X" not in ground.record.everything()
