"""A server of HTTP/1.1 and WebSocket for a pod: `python -m lockgate.bench.steady_server PORT`. It echoes."""

from __future__ import annotations

import sys

from aiohttp import WSMsgType, web


async def page(_: web.Request) -> web.Response:
    """Any page."""
    return web.Response(text="ok")


async def echo(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that sends back what it gets."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def main(port: int) -> None:
    """Serve until killed."""
    application = web.Application()
    application.add_routes([web.get("/socket", echo), web.get("/page", page)])
    web.run_app(application, port=port, print=None, access_log=None, handle_signals=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
