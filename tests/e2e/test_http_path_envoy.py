"""Whatever path a client writes: Envoy judges and forwards exactly the one that the verdict function judges."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lockgate.agent.force.http_side import HttpSide
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.http_path import LONGEST, judged_path
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import Verdict, judge
from lockgate.tests.e2e.redirected_envoy import (  # noqa: F401
    CLIENT,
    SERVER,
    THE_SERVER,
    namespace_of_its_own,
    ready,
    short_run_dir,
)
from lockgate.tests.e2e.redirected_envoy import settings as bootstrap_settings
from lockgate.tests.unit.xds.policy_strategies import origin
from lockgate.xds import XdsServer

PORT = 8080
RULES = HttpRules(tuple(HttpRule(path) for path in ("/", "/a/.*", "/%252f", "/.*[AZ~].*", r"/b\?.*", "/.*%.*/.*")))
POLICY = DirectionPolicy(True, (ResolvedRule(origin("p"), False, None, (PortSpan(Protocol.TCP, PORT, PORT),), RULES),))

PIECES = [
    *("/", "//", ".", "..", "/.", "/..", "/./", "/../", "a", "b", "ab", "A", "Z", "-", "_", "~", "5", "7", "f", "F"),
    *("%2e", "%2E", ".%2e", "%2e%2E", "%2f", "%2F", "%5c", "%5C", "%25", "%32", "%66", "%46", "%30", "%41", "%7e"),
    *("%00", "%0a", "%20", "%23", "%3b", "%3B", "%3f", "%c3%A9", "%", "%2", "%5", "%%", "%z", "%zz"),
    *(";", ";x", ".;", "..;", "..;x", "/..;/", "/%2e%2e;", ";/", "\\", "\\..\\", "?", "?x=", "&", "#", "#x"),
    *("!", "$", "'", "(", ")", "*", "+", ",", ":", "=", "@", "[", "]", '"', "<", ">", "^", "`", "{", "|", "}"),
]
written_paths = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces))


class Echo:
    """A server that answers with the path it was asked for, and counts the requests."""

    def __init__(self) -> None:
        self.seen = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.seen += 1
                path = head.split(b" ", 2)[1]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


class Client:
    """Sends paths byte for byte; connects anew when Envoy has closed the connection after an error."""

    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str) -> tuple[int, str]:
        """The status, and the path that the server saw."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(SERVER, PORT, local_addr=(CLIENT, 0))
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nHost: api\r\n\r\n".encode("latin-1"))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        lines = head.split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        status = int(lines[0].split()[1])
        if b"connection: close" in lines:
            self.close()
        return status, body.decode() if status == 200 else ""

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@asynccontextmanager
async def policed(run_dir: Path) -> AsyncIterator[Echo]:
    """The node's Envoy with the policy in force, and a server behind it."""
    xds, echo = XdsServer(run_dir / "xds-5.sock"), Echo()
    await xds.start()
    try:
        pairs = [(THE_SERVER, EndpointPolicy(ingress=POLICY))]
        node = HttpSide().resources(pairs, frozenset({(THE_SERVER.identity, Direction.INGRESS)}))
        await xds.publish(node.snapshot())
        async with (
            ready(run_dir, bootstrap(bootstrap_settings(run_dir))),
            await asyncio.start_server(echo.serve, SERVER, PORT),
        ):
            yield echo
    finally:
        await xds.stop()


def expected(path: str) -> tuple[int, str]:
    judged = judged_path(path)
    if judged.refusal:
        return 400, ""
    verdict = judge(POLICY, 9, Protocol.TCP, PORT, HttpRequest("GET", path, "api")).verdict
    return (200, judged.path) if verdict is Verdict.ALLOW else (403, "")


async def ask_all(client: Client, paths: Sequence[str]) -> list[tuple[int, str]]:
    return [await client.ask(path) for path in paths]


def test_envoy_judges_and_forwards_the_path_that_the_verdict_function_judges(run_dir: Path) -> None:
    seen = Counter[int]()
    with asyncio.Runner() as runner:
        envoy = policed(run_dir)
        echo = runner.run(envoy.__aenter__())
        client = Client()
        try:

            @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
            @example(["/a/%2e%2e;/b", "/a\\..;x/b", "/a/.;/b", "/a/..;x%00/b", "/a/..;", "/..;?x"])
            @example(["/%2%66", "/%%32%66", "/%a/../%41%42CD", "//", "///", "/a/..//", "/a//..//../b"])
            @example([f"/a/{chr(code)}" for code in range(0x21, 0x7F)])
            @example([f"/a/%{code:02x}" for code in range(256)])
            @example([f"/a/{'b' * more}{query}" for more in (8180, 8188, 8189, 8190) for query in ("", "?", "?x=3")])
            @example(["/a/../" * 2000 + "a/b", "/a/%41" + "b" * 8186, "/a/%41" + "b" * 8189])
            @given(st.lists(written_paths, min_size=10, max_size=30))
            def agrees(paths: list[str]) -> None:
                for path, answer in zip(paths, runner.run(ask_all(client, paths)), strict=True):
                    status, forwarded = expected(path)
                    dots = answer[0] == 403 and judged_path(path).refusal.startswith("dots")  # denied before refused
                    assert answer == (status, forwarded) or dots, path
                    seen[answer[0]] += 1

            agrees()
            assert echo.seen == seen[200]
        finally:
            client.close()
            runner.run(envoy.__aexit__(None, None, None))
    assert min(seen[200], seen[400], seen[403]) > 100, seen


async def test_the_same_over_http2(run_dir: Path) -> None:
    """gRPC sends the method's name as the path; what is refused or denied never reaches a server."""
    paths = ["/a/../x", "/x/../a/b", "/x/%2e%2e/a/b", "//a///b", "/a%2fb", "/a/%2e%2e;/b", "/a\\b", "/%41", "/a#b"]
    expecting = {400: grpc.StatusCode.INTERNAL, 403: grpc.StatusCode.PERMISSION_DENIED}
    async with policed(run_dir) as echo, grpc.aio.insecure_channel(f"{SERVER}:{PORT}") as channel:
        for path in paths:
            before = echo.seen
            try:
                await channel.unary_unary(path)(b"")
            except grpc.aio.AioRpcError as error:
                code = error.code()
            status, _ = expected(path)
            if status == 200:  # the server speaks no HTTP/2, but it was asked
                assert code is not grpc.StatusCode.PERMISSION_DENIED and code is not grpc.StatusCode.INTERNAL, path
            else:
                assert code is expecting[status], (path, code)
            assert (echo.seen > before) == (status == 200), path


async def test_a_host_or_a_method_that_is_too_long_is_refused(run_dir: Path) -> None:
    async with policed(run_dir) as echo:
        asked = (("GET", "a" * LONGEST, 200), ("GET", "a" * (LONGEST + 1), 400), ("G" * (LONGEST + 1), "a", 400))
        for method, host, status in asked:
            reader, writer = await asyncio.open_connection(SERVER, PORT, local_addr=(CLIENT, 0))
            writer.write(f"{method} /a/b HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert int((await reader.readline()).split()[1]) == status
            writer.close()
            verdict = judge(POLICY, 9, Protocol.TCP, PORT, HttpRequest(method, "/a/b", host)).verdict
            assert (verdict is Verdict.ALLOW) == (status == 200)
        assert echo.seen == 1
