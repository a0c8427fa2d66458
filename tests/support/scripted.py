"""Raw servers on loopback: a test writes the bytes of each response."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

# The bytes of a response, or a function that writes the response to the connection.
Answer = bytes | Callable[[socket.socket], None]
Write = Callable[[bytes], None]


@contextlib.contextmanager
def answering(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Handle each connection in a thread, and close the connection afterwards; yield the port."""

    def run(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):  # the client may have closed the connection
            handle(peer)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=run, args=(peer,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            # A close alone does not interrupt accept(), so the port would accept another connection.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(send: Callable[[Write], None]) -> Iterator[str]:
    """Answer each request by a function that receives a function to write bytes; yield the base URL."""

    def handle(peer: socket.socket) -> None:
        peer.recv(65536)
        send(peer.sendall)

    with answering(handle) as port:
        yield f"http://127.0.0.1:{port}"


def head(status: str, **headers: object) -> bytes:
    """Return a status line and headers; underscores in names become hyphens."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{lines}\r\n".encode()


class Host:
    """A server whose `connection` has further members of extra; a subclass answers in `_handle`."""

    extra: Mapping[str, object] = {}

    def __enter__(self) -> Self:
        self._server = answering(self._handle)
        self.url = f"http://127.0.0.1:{self._server.__enter__()}"
        self.connection = connection_to(self.url, **{"timeout": 5, **self.extra})
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def _handle(self, peer: socket.socket) -> None:
        raise NotImplementedError

    @staticmethod
    def _head_from(peer: socket.socket) -> bytes:
        """Return the received bytes up to the end of a head; nothing if the client has closed before."""
        request = b""
        while b"\r\n\r\n" not in request:
            received = peer.recv(65536)
            if not received:
                return b""
            request += received
        return request


@dataclass
class Scripted(Host):
    """A server that gives its answers in order, and repeats the last.

    `seen` collects the heads of requests; `extra` extends the extra of `connection`.
    """

    answers: list[Answer]
    extra: dict[str, object] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def _handle(self, peer: socket.socket) -> None:
        request = self._head_from(peer)
        if not request:
            return
        self.seen.append(request.decode())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            peer.sendall(answer)
        else:
            answer(peer)


def connection_to(host: str, **extra: object) -> str:
    """Return a connection of type `vace` as JSON."""
    return json.dumps({"conn_type": "vace", "host": host, "password": "k" * 8, "extra": extra})
