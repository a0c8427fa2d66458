"""A vendor for benchmarks: a separate process with planned predictions and a count of polls.

The server speaks a minimum of HTTP/1.1 at the lowest cost in asyncio; the client has the other core.
A POST of durations to `/_plan` starts predictions; `/_counts` returns, for each prediction, the number of
polls, the delay until its end was noticed, and the longest pause between two polls.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import ipaddress
import json
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_vace.emulator.world import Timeline, iso

# A bucket of one second's worth, as the emulator has.
_BURST = 1.0


class Planned:
    """A prediction and the polls for it."""

    __slots__ = ("ended", "first_poll", "last_poll", "line", "longest_pause", "noticed_end", "polls")

    def __init__(self, line: Timeline) -> None:
        self.line = line
        self.ended = line.ended
        self.polls = 0
        self.first_poll: float | None = None
        self.last_poll: float | None = None
        self.longest_pause = 0.0
        self.noticed_end: float | None = None

    def count_poll(self, now: float) -> None:
        """Count a poll, and note the first poll after the end."""
        self.polls += 1
        if self.first_poll is None:
            self.first_poll = now
        if self.last_poll is not None and self.noticed_end is None:
            self.longest_pause = max(self.longest_pause, now - self.last_poll)
        self.last_poll = now
        if now >= self.ended and self.noticed_end is None:
            self.noticed_end = now


class Vendor:
    """The planned predictions and the counters."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.planned: list[Planned] = []
        self.seen = dict.fromkeys(("requests", "refused", "pages", "connections", "open", "max_open"), 0)
        self.allowance, self.counted = limit or 0.0, time.monotonic()
        self.cpu = time.process_time()

    def plan(self, durations: list[dict[str, float]]) -> None:
        """Start predictions with these durations, and reset the counters."""
        now = time.time()
        self.planned = [Planned(Timeline(created=now, steps=50, **each)) for each in durations]
        self.seen.update(requests=0, refused=0, pages=0, connections=0, max_open=self.seen["open"])
        self.cpu = time.process_time()

    def counts(self) -> dict[str, Any]:
        """Return all counters since the plan."""
        return {
            **self.seen,
            "cpu": time.process_time() - self.cpu,
            "polls": [p.polls for p in self.planned],
            "late": [None if p.noticed_end is None else p.noticed_end - p.ended for p in self.planned],
            "first_poll": [p.first_poll for p in self.planned],
            "longest_pause": [p.longest_pause for p in self.planned],
            "started": self.planned[0].line.created if self.planned else None,
        }

    def may_pass(self) -> bool:
        """Return True if the token bucket allows another request."""
        if self.limit is None:
            return True
        now = time.monotonic()
        filled = self.allowance + (now - self.counted) * self.limit
        self.allowance, self.counted = min(filled, self.limit * _BURST), now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    def prediction(self, number: int, now: float) -> dict[str, Any]:
        """Return the JSON object of a prediction, and count the poll."""
        planned = self.planned[number]
        planned.count_poll(now)
        line, is_over = planned.line, now >= planned.ended
        status = "succeeded" if is_over else "processing" if now >= line.started else "starting"
        return {
            "id": f"p{number}",
            "model": "prunaai/vace-14b",
            "version": "hidden",
            "input": {"prompt": "a red fox runs through fresh snow", "size": "832*480", "seed": 7},
            "logs": line.logs_at(now),
            "output": f"https://delivery.example/{number}/output.mp4" if is_over else None,
            "data_removed": False,
            "error": None,
            "status": status,
            "created_at": iso(line.created),
            "started_at": iso(line.started) if now >= line.started else None,
            "completed_at": iso(planned.ended) if is_over else None,
            "urls": {"get": f"https://api.replicate.com/v1/predictions/p{number}"},
        }

    def page(self, start: int, now: float) -> dict[str, Any]:
        """Return a page of a hundred predictions, newest first."""
        self.seen["pages"] += 1
        newest = len(self.planned) - 1 - start
        numbers = range(newest, max(newest - 100, -1), -1)
        more = newest - 100 >= 0
        following = f"/v1/predictions?cursor={start + 100}" if more else None
        return {"previous": None, "next": following, "results": [self.prediction(n, now) for n in numbers]}


class Connection(asyncio.Protocol):
    """A kept-alive connection of a client."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        seen = self.vendor.seen
        seen["connections"] += 1
        seen["open"] += 1
        seen["max_open"] = max(seen["max_open"], seen["open"])

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.vendor.seen["open"] -= 1

    def data_received(self, data: bytes) -> None:
        # A request may arrive in pieces, and several requests in one piece.
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = 0
            at = head.lower().find(b"\r\ncontent-length:")
            if at >= 0:
                length = int(head[at + 17 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.respond(head.split(b" ", 2)[1].decode(), body)

    def respond(self, path: str, body: bytes) -> None:
        """Send the response to a request."""
        vendor, now = self.vendor, time.time()
        if path == "/_plan":
            vendor.plan(json.loads(body))
            self.send(200, {})
            return
        if path == "/_counts":
            self.send(200, vendor.counts())
            return
        vendor.seen["requests"] += 1
        if not vendor.may_pass():
            vendor.seen["refused"] += 1
            self.send(429, {"detail": "Request was throttled."}, "Retry-After: 1\r\n")
            return
        route, _, query = path.partition("?")
        name = route.rsplit("/", 1)[1]
        if name == "predictions":
            self.send(200, vendor.page(int(query.partition("cursor=")[2] or 0), now))
        elif name.startswith("p") and int(name[1:]) < len(vendor.planned):
            self.send(200, vendor.prediction(int(name[1:]), now))
        else:
            self.send(404, {"detail": "not found"})

    def send(self, status: int, body: Any, more: str = "") -> None:
        """Send a JSON response; `more` are further header lines."""
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}"
        head += f"Content-Length: {len(text)}\r\n\r\n"
        self.transport.write(head.encode() + text)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and the key; return both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vendor")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return chain, secret


class VendorProcess:
    """The vendor as a separate process, over TLS on loopback.

    :param limit: accepted requests a second; further requests get a 429
    """

    def __init__(self, limit: float | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vace-vendor-")
        self.chain, secret = certificate(Path(self._folder.name))
        command = [sys.executable, __file__, str(self.chain), str(secret)]
        self._process = subprocess.Popen(
            [*command, *(["--limit", str(limit)] if limit else [])], stdout=subprocess.PIPE, text=True
        )
        self.url = str(self._process.stdout and self._process.stdout.readline()).strip()
        self._context = ssl.create_default_context(cafile=str(self.chain))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()

    def plan(self, durations: list[dict[str, float]]) -> None:
        """Start predictions with these durations, and reset the counters."""
        with urlopen(f"{self.url}/_plan", json.dumps(durations).encode(), context=self._context):  # noqa: S310
            pass

    def counts(self) -> dict[str, Any]:
        """Return all counters since the plan."""
        with urlopen(f"{self.url}/_counts", context=self._context) as answer:  # noqa: S310 - loopback
            found: dict[str, Any] = json.load(answer)
            return found


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chain")
    parser.add_argument("key")
    parser.add_argument("--limit", type=float)
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.chain, options.key)
    vendor = Vendor(options.limit)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(vendor), "127.0.0.1", 0, ssl=context, backlog=4096
        )
        print(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
