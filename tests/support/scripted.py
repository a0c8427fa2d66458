"""A server on loopback that answers each request for a file with the bytes that a test wrote."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

# An answer: its bytes, or what writes them to the connection.
Answer = bytes | Callable[[socket.socket], None]


def head(status: str, **headers: object) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{lines}\r\n".encode()


@dataclass
class Scripted:
    """Gives its answers one after another, the last one for ever; `seen` are the requests' heads."""

    answers: list[Answer]
    extra: dict[str, object] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.connection = json.dumps(
            {"conn_type": "vace", "host": self.url, "password": "key", "extra": {"timeout": 5, **self.extra}}
        )
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it is closed, at the end
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # who asked may have gone
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            self.seen.append(request.decode())
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                connection.sendall(answer)
            else:
                answer(connection)
