"""Options of Chromium for tests."""

from __future__ import annotations

# Chromium asks its maker for updates otherwise, and a root user needs `--no-sandbox`.
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
