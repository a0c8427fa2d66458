"""Files of the emulator: metadata, own ids, the download with a signature."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_vace.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        yield emulator


def ask(emulator: Emulator, method: str, path: str, **more: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    return requests.request(method, f"{emulator.url}{path}", headers=headers, timeout=60, **more)


def upload(emulator: Emulator, **parts: Any) -> requests.Response:
    return ask(emulator, "POST", "/v1/files", files=parts)


def test_an_upload_keeps_name_type_and_metadata(emulator: Emulator) -> None:
    made = upload(
        emulator,
        content=("a.zip", b"PK", "application/zip"),
        metadata=(None, '{"customer": 123}', "application/json"),
    )
    assert made.status_code == 201
    file = made.json()
    assert (file["name"], file["content_type"], file["size"]) == ("a.zip", "application/zip", 2)
    assert file["metadata"] == {"customer": 123}
    assert ask(emulator, "GET", f"/v1/files/{file['id']}").json() == file
    named = upload(emulator, content=b"PK", filename=(None, "b.zip"), type=(None, "text/plain")).json()
    assert (named["name"], named["content_type"]) == ("b.zip", "text/plain")


def test_the_same_content_twice_is_two_files(emulator: Emulator) -> None:
    first, second = (upload(emulator, content=b"PK").json() for _ in range(2))
    assert first["id"] != second["id"]
    assert first["checksums"] == second["checksums"]
    listed = ask(emulator, "GET", "/v1/files").json()["results"]
    assert [file["id"] for file in listed] == [second["id"], first["id"]]
    assert ask(emulator, "DELETE", f"/v1/files/{first['id']}").status_code == 204
    assert ask(emulator, "DELETE", f"/v1/files/{first['id']}").status_code == 404
    assert emulator.uploads.content_of(second["urls"]["get"]) == b"PK"


def test_the_url_of_a_file_has_its_description_and_needs_the_key(emulator: Emulator) -> None:
    file = upload(emulator, content=b"PK").json()
    assert file["urls"]["get"] == f"{emulator.url}/v1/files/{file['id']}"
    assert requests.get(file["urls"]["get"], timeout=60).status_code == 401
    with pytest.raises(KeyError):
        emulator.uploads.content_of(f"{emulator.url}/v1/files/another")


def test_content_is_sent_to_a_signed_address_only(emulator: Emulator) -> None:
    file = upload(emulator, content=("a.zip", b"PK", "application/zip")).json()

    def download(moment: float, **changes: str) -> requests.Response:
        expiry = str(int(moment))
        signature = emulator.uploads.sign(file["id"], "emulator", expiry)
        query = {"owner": "emulator", "expiry": expiry, "signature": signature, **changes}
        return requests.get(f"{file['urls']['get']}/download", params=query, timeout=60)

    good = download(time.time() + 60)
    assert (good.status_code, good.content) == (200, b"PK")
    assert download(time.time() - 60).status_code == 404
    for changes in ({"owner": "other"}, {"signature": "x"}, {"signature": "é"}, {"expiry": "soon"}):
        assert download(time.time() + 60, **changes).status_code == 404
    ask(emulator, "DELETE", f"/v1/files/{file['id']}")
    assert download(time.time() + 60).status_code == 404


@pytest.mark.parametrize(
    "parts",
    [
        {"content": b"x", "metadata": (None, "not json")},
        {"content": ("a" * 256, b"x")},
        {"content": b"x", "filename": (None, b"\xff")},
        {"other": b"x"},
    ],
    ids=str,
)
def test_a_wrong_upload_is_refused(emulator: Emulator, parts: dict[str, Any]) -> None:
    answer = upload(emulator, **parts)
    assert answer.status_code == 400
    assert answer.json()["detail"]
