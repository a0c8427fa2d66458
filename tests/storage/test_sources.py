"""Identity of source files: local content, versions in stores, and files whose state is unknown."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.hooks import VaceHook
from airflow_vace.storage.sources import identified
from support.records import order
from support.scripted import connection_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture(autouse=True)
def _allowed(connect: Callable[[str], None], tmp_path: Path) -> None:
    connect(connection_to("https://x", input_roots=[str(tmp_path)]))


def digest(source: str, model: str = "prunaai/vace-14b") -> str | None:
    values = {"src_video": source} if model == "prunaai/vace-14b" else {"scene": [{"clip": source}]}
    of = order(model)
    return identified(VaceHook(), replace(of, values={**of.values, **values})).digest


@pytest.mark.parametrize("model", ["prunaai/vace-14b", "owner/other"])
def test_a_local_file_counts_by_content_alone(tmp_path: Path, model: str) -> None:
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    first = digest(f"file://{one}", model)
    assert first is not None
    os.utime(one, (1, 1))
    assert digest(f"file://{one}", model) == digest(f"file://{two}", model) == first
    one.write_bytes(b"abd")
    assert digest(f"file://{one}", model) not in (None, first)


def test_a_file_in_a_store_counts_by_place_and_version(memory: Any) -> None:
    memory.pipe_file("/b/one.mp4", b"abc")
    memory.pipe_file("/b/two.mp4", b"abc")
    first = digest("memory://b/one.mp4")
    assert first is not None
    assert digest("memory://b/one.mp4") == first
    assert digest("memory://b/two.mp4") not in (None, first)
    memory.pipe_file("/b/one.mp4", b"abd")
    assert digest("memory://b/one.mp4") not in (None, first)


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ({"ETag": '"1"', "LastModified": "mon"}, {"ETag": '"1"', "LastModified": "tue"}, True),
        ({"ETag": '"1"'}, {"ETag": '"2"'}, False),
        ({"md5Hash": "a", "etag": "1"}, {"md5Hash": "a", "etag": "2"}, True),
        ({"last_modified": "mon"}, {"last_modified": "tue"}, False),
        ({"ETag": "", "mtime": 1.0}, {"ETag": "", "mtime": 2.0}, False),
    ],
)
def test_a_stores_digest_counts_before_its_time(
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    is_same: bool,
) -> None:
    found = []
    for known in (before, after):
        info = {"type": "file", "size": 3, **known}
        monkeypatch.setattr(type(memory), "info", lambda *_, info=info, **__: info)
        found.append(digest("memory://b/one.mp4"))
    assert None not in found
    assert (found[0] == found[1]) is is_same


def test_a_store_without_versions_identifies_no_file(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: {"type": "file", "size": 3})
    assert digest("memory://b/one.mp4") is None
    assert "the store of memory://b/one.mp4 keeps neither digest nor time" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["none.mp4", "pipe.mp4", "/etc/hostname"])
def test_a_file_that_tasks_may_not_send_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert digest(f"file://{tmp_path / name}") is None


def test_an_address_counts_without_its_signature(memory: Any) -> None:
    del memory
    signed = "https://h.example/a.mp4?X-Amz-Signature={}&v=1"
    assert digest(signed.format(1)) == digest(signed.format(2)) != digest("https://h.example/a.mp4?v=2")
