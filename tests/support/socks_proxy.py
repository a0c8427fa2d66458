"""A SOCKS proxy on loopback, which leads all connections to one server."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

from support.scripted import answering


@dataclass
class SocksProxy:
    """A SOCKS5 proxy (RFC 1928) with an optional password (RFC 1929).

    `hosts` collects the requested names, and `users` the credentials.

    :param port: of the server behind the proxy
    :param is_open: False for a proxy that refuses each connection
    """

    target: int
    is_open: bool = True
    hosts: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = answering(self._handle)
        self.port = self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def _handle(self, peer: socket.socket) -> None:
        stream = peer.makefile("rb")
        _, count = stream.read(2)
        methods = stream.read(count)
        peer.sendall(b"\x05\x02" if 2 in methods else b"\x05\x00")
        if 2 in methods:
            stream.read(1)
            self.users += [stream.read(stream.read(1)[0]).decode() for _ in range(2)]
            peer.sendall(b"\x01\x00")
        kind = stream.read(4)[3]
        if kind == 3:
            self.hosts.append(stream.read(stream.read(1)[0]).decode())
        else:
            self.hosts.append(socket.inet_ntoa(stream.read(4)))
        stream.read(2)
        if not self.is_open:
            peer.sendall(b"\x05\x05\x00\x01" + bytes(6))
            return
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            peer.sendall(b"\x05\x00\x00\x01" + bytes(6))
            threading.Thread(target=_pipe, args=(server, peer), daemon=True).start()
            _pipe(peer, server)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other end may have closed the connection
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
