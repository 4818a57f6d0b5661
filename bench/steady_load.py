"""Requests without a pause: `python -m lockgate.bench.steady_load ADDRESS HTTP_PORT GRPC_PORT KAFKA_PORT`, until its
input ends.

HTTP/1.1 on connections that are kept as long as the other side keeps them, unary gRPC calls and gRPC streams on one
channel, WebSocket sessions and sessions with a Kafka broker, each of a third of a second. Nothing is tried twice.
Beside them a Kafka client that lives as long as the load: its connections end with the Envoy that they run through, for
the protocol has no word of parting, and its library makes others and sends again what had no answer; what counts is
what the application meets. It writes "going" when one of each has succeeded, and at the end, as one JSON object, how
much was done of each and what failed.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import logging
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import aiohttp
import grpc

from .grpc_mode import SERVICE
from .kafka_client import KafkaError, ReadAndWrite

PAGE, SOCKET = "/page", "/socket"
UNARY, STREAM = f"/{SERVICE}/Get", f"/{SERVICE}/Talk"
_PATIENCE = 20.0  # seconds for any answer
_PAUSE = 0.02  # between the messages of a stream or session
_MESSAGES = 15  # a stream is over long before a replaced Envoy must be
_CONNECTIONS = 4
KINDS = ("http", "grpc", "grpc stream", "websocket", "kafka", "kafka client")
TOPICS = ("orders", "payroll")  # agent/demo/kafka_server.py: of the sessions, and of the client that lives on


class Load:
    """Everything that is going on, and what came of it."""

    def __init__(self, address: str, http_port: int, grpc_port: int, kafka_port: int) -> None:
        self._address = address
        self._brokers = f"{address}:{kafka_port}"
        self._http_port = http_port
        self._channel = grpc.insecure_channel(f"{address}:{grpc_port}", options=(("grpc.enable_http_proxy", 0),))
        self._over = threading.Event()
        self._done: Counter[str] = Counter()
        self._failures: list[str] = []

    def run(self, until: Callable[[], object]) -> dict[str, object]:
        """Goes on until `until` returns; what it has to say."""
        self._await_broker()
        works = [self._pages] * _CONNECTIONS
        works += [self._calls, self._streams, self._sockets, self._sessions, self._lasting]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        while len(self._done) < len(KINDS):
            time.sleep(0.01)
        print("going", flush=True)
        until()
        self._over.set()
        for thread in threads:
            thread.join()
        return {"done": dict(self._done), "failures": self._failures}

    def _repeat(self, kind: str, once: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                once()
                self._done[kind] += 1
            except Exception as error:  # whatever it is, it is what a user would have met
                moment = time.strftime("%H:%M:%S")
                self._failures.append(f"{moment} {kind}: {type(error).__name__} {str(error)[:300]}")
                time.sleep(0.1)

    def _pages(self) -> None:
        connection = http.client.HTTPConnection(self._address, self._http_port, timeout=_PATIENCE)

        def once() -> None:
            try:
                connection.request("GET", PAGE)
                answer = connection.getresponse()  # closes the connection when the answer says so
                body = answer.read()
                if (answer.status, body) != (200, b"ok"):
                    raise ValueError(f"{answer.status} {body!r}")
            except BaseException:
                connection.close()
                raise

        self._repeat("http", once)
        connection.close()

    def _calls(self) -> None:
        call = self._channel.unary_unary(UNARY)

        def once() -> None:
            call(b"hello", timeout=_PATIENCE)

        self._repeat("grpc", once)

    def _streams(self) -> None:
        def once() -> None:
            waiting: queue.Queue[bytes | None] = queue.Queue()

            def say() -> Iterator[bytes]:
                while (message := waiting.get()) is not None:
                    yield message

            answers = self._channel.stream_stream(STREAM)(say(), timeout=_PATIENCE)
            try:
                for number in range(_MESSAGES):
                    waiting.put(b"%d" % number)
                    if not next(answers).endswith(b" %d" % number):
                        raise ValueError("another answer")
                    time.sleep(_PAUSE)
                waiting.put(None)
                if list(answers):
                    raise ValueError("an answer too many")
            finally:
                waiting.put(None)

        self._repeat("grpc stream", once)

    def _sockets(self) -> None:
        async def session() -> None:
            url = f"http://{self._address}:{self._http_port}{SOCKET}"
            async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
                for number in range(_MESSAGES):
                    await socket.send_str(str(number))
                    if await socket.receive_str(timeout=_PATIENCE) != str(number):
                        raise ValueError("another answer")
                    await asyncio.sleep(_PAUSE)

        self._repeat("websocket", lambda: asyncio.run(session()))

    def _await_broker(self) -> None:
        """It makes its topics when it has begun."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._session()
                return
            except (KafkaError, ValueError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _sessions(self) -> None:
        self._repeat("kafka", self._session)

    def _session(self) -> None:
        with self._kafka(TOPICS[0], retries=0) as kafka:
            for number in range(_MESSAGES):
                kafka.write_and_read(b"%d" % number)
                time.sleep(_PAUSE)

    def _lasting(self) -> None:
        numbers = itertools.count()
        with self._kafka(TOPICS[1]) as kafka:

            def once() -> None:
                kafka.write_and_read(b"%d" % next(numbers))
                time.sleep(_PAUSE)

            self._repeat("kafka client", once)

    def _kafka(self, topic: str, **producing: object) -> ReadAndWrite:
        return ReadAndWrite(self._brokers, topic, _PATIENCE, **producing)


def main(address: str, http_port: int, grpc_port: int, kafka_port: int) -> None:
    """Run until standard input ends."""
    load = Load(address, http_port, grpc_port, kafka_port)
    print(json.dumps(load.run(sys.stdin.read)), flush=True)


if __name__ == "__main__":
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # of each connection that ends
    main(sys.argv[1], *map(int, sys.argv[2:]))
