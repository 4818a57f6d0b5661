"""An authoritative DNS server for tests, in a pod or on the node: UDP and TCP, IPv4 and IPv6, a zone that changes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns


@dataclass(frozen=True, slots=True)
class Asked:
    """One question that reached the server, and from where."""

    client: str
    port: int
    name: str
    rdtype: str
    tcp: bool
    number: int


class NameServer:
    """`zone` is name -> (TTL, addresses and CNAME targets). Names in `large` are truncated over UDP."""

    def __init__(self, where: Namespace, port: int = 53, address: str = "::") -> None:
        self.zone: dict[str, tuple[int, tuple[str, ...]]] = {}
        self.large: set[str] = set()
        self.asked: list[Asked] = []
        self._sockets: list[socket.socket] = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            made = netns.run_in(where.path, partial(_bind, kind, address, port))
            self._sockets.append(made)
            serve = self._datagrams if kind == socket.SOCK_DGRAM else self._accept
            threading.Thread(target=serve, args=(made,), daemon=True).start()

    def close(self) -> None:
        """Stops answering."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def names(self) -> list[str]:
        """What was asked for, in order."""
        return [each.name for each in list(self.asked)]

    def _datagrams(self, bound: socket.socket) -> None:
        with suppress(OSError):
            while True:
                wire, peer = bound.recvfrom(65535)
                if peer is None:
                    return
                bound.sendto(self._answer(wire, peer, tcp=False), peer)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, peer = listener.accept()
                threading.Thread(target=self._stream, args=(connection, peer), daemon=True).start()

    def _stream(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as received:
            while head := received.read(2):
                wire = received.read(int.from_bytes(head, "big"))
                answer = self._answer(wire, peer, tcp=True)
                connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, wire: bytes, peer: tuple[str, int], tcp: bool) -> bytes:
        query = dns.message.from_wire(wire)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        client = peer[0].removeprefix("::ffff:")
        self.asked.append(Asked(client, peer[1], name, rdtype, tcp, query.id))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if name in self.large and not tcp:
            response.flags |= dns.flags.TC
            return response.to_wire()
        if name not in self.zone:
            response.set_rcode(dns.rcode.NXDOMAIN)
        owner = question.name
        while (entry := self.zone.get(owner.to_text(omit_final_dot=True).lower())) is not None:
            ttl, targets = entry
            aliases = [text for text in targets if not _is_address(text)]
            found = [text for text in targets if _is_address(text) and (":" in text) == (rdtype == "AAAA")]
            if aliases:
                response.answer.append(dns.rrset.from_text(owner, ttl, "IN", "CNAME", f"{aliases[0]}."))
                owner = dns.name.from_text(aliases[0])
                continue
            if found and rdtype in ("A", "AAAA"):
                response.answer.append(dns.rrset.from_text(owner, ttl, "IN", rdtype, *found))
            break
        return response.to_wire(max_size=65535)


def _bind(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    return made


def _is_address(text: str) -> bool:
    return ":" in text or text.replace(".", "").isdigit()
