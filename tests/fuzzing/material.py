"""Bytes turned into third-party data: JSON with the names that readers use, and texts that readers parse."""

from __future__ import annotations

import json
from typing import Any

# Members that a reader uses, and texts that a reader parses.
NAMES = [
    "id",
    "status",
    "model",
    "version",
    "urls",
    "output",
    "error",
    "created_at",
    "started_at",
    "completed_at",
    "metrics",
    "data_removed",
    "files",
    "input",
    "logs",
    "get",
    "cancel",
    "web",
    "results",
    "next",
    "detail",
    "message",
    "code",
    "title",
    "type",
    "status_code",
    "status_message",
    "invalid_fields",
    "field",
    "description",
    "loc",
    "msg",
    "retry_after",
    "parameters",
    "generation_url",
    "get_url",
    "predict_time",
    "total_time",
    "uri",
    "size",
    "sha256",
    "content_type",
    "phase",
    "fingerprint",
    "mark",
    "marked",
    "is_exact",
    "conn_id",
    "seed",
    "is_seed_drawn",
    "nonce",
    "intended_at",
    "lost_since",
    "deadline",
    "max_tries",
    "prediction",
    "earlier",
    "vace_conn_id",
    "prompt",
    "sample_steps",
    "src_video",
    "backend",
    "api_prefix",
    "lists",
    "timeout",
    "verify",
    "proxies",
    "cert",
    "input_roots",
    "http",
    "https",
]
TEXTS = (
    "",
    "abc123",
    "succeeded",
    "failed",
    "Cancelled",
    "aborted",
    "processing",
    "starting",
    "warming-up",
    "prunaai/vace-14b",
    "https://api.replicate.com/v1/predictions/abc123",
    "http://127.0.0.1/v1/predictions/abc123/cancel",
    "https://user:secret@files.example/a.mp4?X-Amz-Signature=abcdef",
    "data:video/mp4;base64,AAAA",
    "//elsewhere.example/x",
    "http://[::1",
    "E6716: timed out",
    "Queue is full",
    "a key: the-key-of-this-test",
    "Your rate limit resets in ~5s, or 1h 3.5 minutes",
    "2026-11-23T10:00:00.123456789Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    " 38%|███▊      | 19/50 [00:30<00:48,  1.57s/it]\r",
    "100%|██████████| 50/50 [1:02:03<?, ?it/s]\n",
    "<!DOCTYPE html><title>Sign in",
    "\x00",
    "\ud800",
    "\u2028\u202e",
    "%00%2e%2e/",
    "../../etc/passwd",
    "9" * 5000,
    "true",
    "None",
    "{'id': 'abc', 'urls': {'get': 'x'}}",
    "intent",
    "submitted",
    "settled",
)
NUMBERS = (0, 1, -1, 50, 200, 10**9, 2**63, 10**400, -(10**400), 0.0, -0.0, 1e308, -1e308, 0.5, 5e-324)
_ODD = (None, True, False, float("inf"), float("-inf"), float("nan"))


class Material:
    """Choices made by bytes; after the last byte every choice is the first option."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """Return a number from 0 to `count` - 1."""
        value = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return value % count

    def one_of(self, options: Any) -> Any:
        return options[self.below(len(options))]

    def rest(self) -> bytes:
        found, self._at = self._data[self._at :], len(self._data)
        return found

    def text(self) -> str:
        if self.below(4):
            return "".join(self.one_of(TEXTS) for _ in range(1 + self.below(2)))
        return bytes(self.below(256) for _ in range(self.below(24))).decode("utf-8", errors="surrogateescape")

    def value(self, depth: int = 0) -> Any:
        kind = self.below(8 if depth < 5 else 5)
        if kind <= 1:
            return self.text()
        if kind == 2:
            return self.one_of(NUMBERS)
        if kind == 3:
            return self.one_of(_ODD)
        if kind == 4:
            return {"id": "abc123", "status": self.one_of(TEXTS[2:9])}
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.below(5))]
        return self.object(depth)

    def object(self, depth: int = 0) -> dict[str, Any]:
        return {self.one_of(NAMES): self.value(depth + 1) for _ in range(self.below(9))}

    def json_bytes(self) -> bytes:
        """Return a body: JSON, damaged JSON, or arbitrary bytes."""
        match self.below(4):
            case 0:
                return self.rest()
            case 1:
                whole = json.dumps(self.value()).encode()
                at = self.below(256) % (len(whole) + 1)
                return whole[:at] + bytes([self.below(256)]) + whole[at + self.below(3) :]
        return json.dumps(self.object()).encode()
