"""A host of files on loopback, whose answers a test writes by path."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.scripted import Host, head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    # Returns the whole response to a request, from the request's path and head.
    Respond = Callable[[str, str], bytes]

_KEY = re.compile(r"^(authorization|apikey):", re.IGNORECASE | re.MULTILINE)


def file(content: bytes, **headers: object) -> bytes:
    """Return the response with a file, by default without a media type."""
    return head("200 OK", **{"Content_Length": len(content), **headers}) + content


@dataclass
class FileHost(Host):
    """A server that answers by a function; `seen` holds path and head of each request."""

    respond: Respond
    seen: list[tuple[str, str]] = field(default_factory=list)

    def _handle(self, peer: socket.socket) -> None:
        request = self._head_from(peer)
        if not request:
            return
        path = request.split(b" ", 2)[1].decode("ascii")
        self.seen.append((path, request.decode("latin-1")))
        peer.sendall(self.respond(path, self.seen[-1][1]))

    @property
    def keys(self) -> list[bool]:
        """Whether each request carried a key."""
        return [_KEY.search(request) is not None for _, request in self.seen]
