"""Downloads of outputs from servers that answer in unusual ways."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.exceptions import VaceAPIError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.storage.find import find_saved
from airflow_vace.storage.save import save_output
from support.file_host import FileHost, file
from support.films import MP4
from support.saving import succeeded, to
from support.scripted import head

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.file_host import Respond

pytestmark = pytest.mark.usefixtures("hurry")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(3000) + b"IEND\xae\x42\x60\x82"
ZIP = b"PK\x03\x04" + bytes(3000) + b"PK\x05\x06" + bytes(18)
PDF = b"%PDF-1.7\n\xe2\xe3" + bytes(3000) + b"%%EOF\n"
LIST = b"[" + b"1, " * 1000 + b"1]\n"


def saved(connect: Callable[[str], None], respond: Respond, tmp_path: Path, path: str) -> dict[str, Any]:
    with FileHost(respond) as host:
        connect(host.connection)
        output = path.replace("{host}", host.url).replace("{place}", host.url.removeprefix("http://"))
        (found,) = save_output(VaceHook(), succeeded(output=output), to(f"{tmp_path}/", None))
    return found


@pytest.mark.parametrize("answers", [["203 Changed"], ["202 Accepted", "200 OK"], ["204 Empty", "200 OK"]])
def test_a_file_comes_with_any_success(
    connect: Callable[[str], None], tmp_path: Path, answers: list[str]
) -> None:
    left = list(answers)

    def respond(*_: str) -> bytes:
        status = left.pop(0)
        content = b"" if status[:3] in ("202", "204") else MP4
        return head(status, Content_Length=len(content)) + content

    assert saved(connect, respond, tmp_path, "{host}/a.mp4")["size"] == len(MP4)
    assert left == []


def test_a_server_that_stays_without_a_file_is_named(connect: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(VaceTransportError, match=r"abc .* has no file yet \(202\)\. It is billed"):
        saved(connect, lambda *_: head("202 Accepted", Content_Length=0), tmp_path, "{host}/a.mp4")


def test_a_refused_file_names_prediction_and_bill(connect: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(VaceAPIError, match=r"Prediction abc .* refused with 418.* It is billed") as caught:
        saved(connect, lambda *_: head("418 Teapot", Content_Length=0), tmp_path, "{host}/a.mp4")
    assert caught.value.status_code == 418


def test_user_and_password_of_an_address_are_sent_in_place_of_the_key(
    connect: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = f"Basic {base64.b64encode(b'fox:p@ss').decode()}"
    seen = []

    def respond(path: str, request: str) -> bytes:
        seen.append(path)
        is_known = f"authorization: {expected}" in request.replace("Authorization", "authorization")
        return file(MP4) if is_known else head("401 No", Content_Length=0)

    assert saved(connect, respond, tmp_path, "http://fox:p%40ss@{place}/a.mp4")["size"] == len(MP4)
    assert seen == ["/a.mp4"]
    assert "p%40ss" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("word", "content", "name"),
    [
        ("br", b"\x8b\x06\x80\x01\x02\x03", "abc.br"),
        ("zstd", b"\x28\xb5\x2f\xfd\x24\x00", "abc.zst"),
        ("compress", b"\x1f\x9d\x90\x01", "abc.bin"),
        ("br", MP4, "abc.mp4"),
    ],
)
def test_without_a_decoder_a_compressed_file_is_saved_as_it_came(  # noqa: PLR0917 - one row of a table
    connect: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    word: str,
    content: bytes,
    name: str,
) -> None:
    from urllib3 import HTTPResponse

    monkeypatch.setattr(HTTPResponse, "CONTENT_DECODERS", ["gzip", "deflate"])
    found = saved(connect, lambda *_: file(content, Content_Encoding=word), tmp_path, "{host}/a.mp4")
    assert Path(found["uri"]).name == name
    assert (tmp_path / name).read_bytes() == content
    assert ("urllib3[brotli,zstd]" in capfd.readouterr().out) == name.endswith((".br", ".bin"))


@pytest.mark.parametrize("content", [PNG, ZIP, PDF, LIST], ids=["png", "zip", "pdf", "json"])
def test_a_file_without_a_length_that_lacks_its_end_is_fetched_again(
    connect: Callable[[str], None], tmp_path: Path, content: bytes
) -> None:
    answers = [content[:2000], content]
    assert saved(connect, lambda *_: head("200 OK") + answers.pop(0), tmp_path, "{host}/a")["size"] == len(
        content
    )
    assert answers == []


def test_a_file_that_twice_lacks_its_end_is_kept(connect: Callable[[str], None], tmp_path: Path) -> None:
    count = []

    def respond(*_: str) -> bytes:
        count.append(1)
        return head("200 OK") + PNG[:2000]

    assert saved(connect, respond, tmp_path, "{host}/a.png")["size"] == 2000
    assert len(count) == 2


def test_large_json_beside_a_file_is_saved_too(connect: Callable[[str], None], tmp_path: Path) -> None:
    words = [{"at": number, "word": "fox" * 10} for number in range(3000)]
    with FileHost(lambda *_: file(MP4)) as host:
        connect(host.connection)
        output = {"video": f"{host.url}/a.mp4?sig=secretsecret", "words": words, "n": {"of": [1]}}
        prediction, destination = succeeded(output=output), to(f"{tmp_path}/", None)
        video, rest = save_output(VaceHook(), prediction, destination)
        assert find_saved(VaceHook(), destination, "abc") == [video, rest]
    content = json.loads(Path(rest["uri"][7:]).read_text())
    assert content == {"video": f"{host.url}/a.mp4?…", "words": words, "n": {"of": [1]}}
    assert rest["content_type"] == "application/json"
