"""Object stores in memory for tests, known to Airflow, and a local disk that refuses writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty store at `memory://`, known to Airflow."""
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem

    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    attach(protocol="memory", fs=store)
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def object_store(memory: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store at `memory://` with the bucket `b`, and with the atomic writes of an object store."""
    monkeypatch.setattr(type(memory), "protocol", ("memory", "gs"))
    memory.mkdir("/b")
    return memory


def fail_writes(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the file system fail each time that a finished temporary file becomes a final one."""
    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        # The emulator renames files too, but none with a hidden name.
        if path.name.startswith(".") and path.suffix == ".part":
            raise error
        return rename(path, target)

    patch.setattr(Path, "replace", replace)


def files_in(store: Any) -> dict[str, bytes]:
    return {path: file.getvalue() for path, file in sorted(store.store.items())}
