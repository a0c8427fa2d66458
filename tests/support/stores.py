"""Object stores for tests: fsspec's in memory, known to Airflow, and a directory of films."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def memory() -> Iterator[Any]:
    """A store `memory://` that Airflow knows; empty."""
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem

    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    attach(protocol="memory", fs=store)
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def files_in(store: Any) -> dict[str, bytes]:
    return {path: file.getvalue() for path, file in sorted(store.store.items())}
