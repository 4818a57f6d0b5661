"""What becomes of a TCP socket in a SOCKHASH whose messages are redirected: the reason why Lockgate uses none.

Started by the script `bench/sockhash`. Exit status: 0 when every question was answered, whatever the answers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lockgate.redirect.kernel.kernel_headers import write_kernel_headers

_SOURCE = """
#include <uapi/linux/bpf.h>
struct key { __u32 local, remote; };
BPF_SOCKHASH(sockets, struct key, 64);
int redirect(struct sk_msg_md *msg)
{
    struct key peer = {.local = __builtin_bswap32(msg->remote_port), .remote = msg->local_port};
    return sockets.msg_redirect_hash(msg, &peer, BPF_F_INGRESS);
}
"""
_SK_MSG, _SK_MSG_VERDICT = 16, 7  # program and attach type
_SETTLE = 0.1  # seconds for what is on its way within the machine
_FLOOD = 64 << 20  # bytes
_SPLICE_NONBLOCK = 2
_SO_ZEROCOPY, _MSG_ZEROCOPY, _MSG_ERRQUEUE = 60, 0x4000000, 0x2000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.splice.restype = ctypes.c_ssize_t


class Pair:
    """A client and a server over loopback, plain or in the map."""

    def __init__(self, sockets: Sockets | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.server, _ = listener.accept()
        self.sockets = sockets
        for each in (self.client, self.server):
            each.settimeout(1)
            if sockets is not None:
                sockets.add(each)

    def close(self) -> None:
        """Both ends."""
        self.client.close()
        self.server.close()


class Sockets:
    """The map, with its program in force."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_kernel_headers(Path(folder))
            os.environ["BCC_KERNEL_SOURCE"] = folder
            from bcc import BPF, lib

            self._lib: Any = lib
            self._module = BPF(text=_SOURCE)
            program = self._module.load_func("redirect", _SK_MSG)
        self._map = lib.bpf_table_fd(self._module.module, b"sockets")
        if lib.bpf_prog_attach(program.fd, self._map, _SK_MSG_VERDICT, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot attach the program to the map")

    def add(self, each: socket.socket) -> None:
        """Its messages go to its peer from now on."""
        value = ctypes.create_string_buffer(struct.pack("=I", each.fileno()), 4)
        if self._lib.bpf_update_elem(self._map, _key(each), value, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot put a socket into the map")

    def remove(self, each: socket.socket) -> None:
        """A plain socket again."""
        if self._lib.bpf_delete_elem(self._map, _key(each)) != 0:
            raise OSError(ctypes.get_errno(), "cannot take a socket out of the map")


def _key(each: socket.socket) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=II", each.getsockname()[1], each.getpeername()[1]), 8)


def _splice(source: socket.socket) -> str:
    reading, writing = os.pipe()
    source.setblocking(False)
    try:
        moved = _libc.splice(source.fileno(), None, writing, None, 100, _SPLICE_NONBLOCK)
        return f"{moved} bytes" if moved >= 0 else errno.errorcode[ctypes.get_errno()]
    finally:
        os.close(reading)
        os.close(writing)


def splice_while_data_wait(pair: Pair) -> str:
    """5 bytes wait."""
    pair.client.send(b"hello")
    time.sleep(_SETTLE)
    ready = bool(select.select([pair.server], [], [], 0)[0])
    return f"{_splice(pair.server)} (poll: {'ready' if ready else 'not ready'})"


def splice_after_the_end(pair: Pair) -> str:
    """5 bytes wait, and the end of the stream behind them."""
    pair.client.send(b"hello")
    time.sleep(_SETTLE)
    pair.client.shutdown(socket.SHUT_WR)
    time.sleep(_SETTLE)
    return _splice(pair.server)


def zero_copy_completion(pair: Pair) -> str:
    """Whether the sender learns that it may use its buffer again."""
    pair.client.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
    pair.client.send(bytes(20_000), _MSG_ZEROCOPY)
    time.sleep(_SETTLE)
    pair.server.recv(30_000)
    time.sleep(_SETTLE)
    pair.client.setblocking(False)
    try:
        pair.client.recvmsg(1, 200, _MSG_ERRQUEUE)
    except BlockingIOError:
        return "never"
    return "comes"


def taken_without_a_reader(pair: Pair) -> str:
    """Messages of 1 KiB to somebody who does not read."""
    sent = 0
    try:
        while sent < _FLOOD:
            sent += pair.client.send(bytes(1024))
    except TimeoutError:
        return f"blocks after {sent / 2**20:.1f} MiB"
    return f"all of {sent / 2**20:.0f} MiB"


def taken_out_with_data_unread(pair: Pair) -> str:
    """5 bytes wait when the reader's socket leaves the map."""
    pair.client.send(b"hello")
    time.sleep(_SETTLE)
    if pair.sockets is not None:
        pair.sockets.remove(pair.server)
    try:
        return f"{len(pair.server.recv(100))} bytes"
    except TimeoutError:
        return "lost"


QUESTIONS: tuple[tuple[str, Callable[[Pair], str]], ...] = (
    ("splice() while 5 bytes wait", splice_while_data_wait),
    ("splice() after the end, 5 bytes before it", splice_after_the_end),
    ("completion of MSG_ZEROCOPY", zero_copy_completion),
    ("1 KiB messages that nobody reads", taken_without_a_reader),
    ("5 unread bytes when it leaves the map", taken_out_with_data_unread),
)


def main() -> int:
    """Asks each question of a plain pair and of one in the map."""
    sockets = Sockets()
    print(f"{'':44}{'plain':28}in a SOCKHASH")
    for question, ask in QUESTIONS:
        answers = []
        for where in (None, sockets):
            with ExitStack() as stack:
                pair = Pair(where)
                stack.callback(pair.close)
                answers.append(ask(pair))
        print(f"{question:44}{answers[0]:28}{answers[1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
