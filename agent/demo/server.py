"""The HTTP server in a server pod: `python -m lockgate.agent.demo.server --port 80 --log FILE`.

Answers every request with 200 and a line that names the server, and writes what it saw to its log, one JSON object a
line: what arrives here has passed the policy, with the address the client really has.
"""

from __future__ import annotations

import argparse
import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Server(ThreadingHTTPServer):
    """Dual stack: IPv4 clients appear as v4-mapped addresses and are logged as IPv4."""

    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, port: int, name: str, log: Path) -> None:
        self.pod = name
        self.log = log.open("a", buffering=1)
        super().__init__(("::", port), _Handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        client = self.client_address[0].removeprefix("::ffff:")
        seen = {"client": client, "method": self.command, "path": self.path, "host": self.headers.get("host", "")}
        self.server.log.write(json.dumps(seen) + "\n")
        body = f"{self.server.pod}: {self.command} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _answer  # noqa: N815 - the names http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr; the log file is the record."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="HTTP server of a demonstration pod")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="server")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    with _Server(options.port, options.name, options.log) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
