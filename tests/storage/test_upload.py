"""Input files: ways to the back-end, checks before any payment, and allowed local directories."""

from __future__ import annotations

import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from airflow_vace.exceptions import VaceAPIError, VaceInputError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.inputs import normalize_input
from airflow_vace.storage import upload
from airflow_vace.storage.masking import mask_signatures
from airflow_vace.storage.upload import InputFiles
from support.films import GIF, MP4, film

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (64).to_bytes(4) + (48).to_bytes(4)


def reachable(**values: Any) -> dict[str, Any]:
    normalised, _ = normalize_input({"prompt": "a fox", **values}, paths=True)
    return InputFiles(VaceHook(), seconds=3600).reachable(normalised)


class Signing(BaseHTTPRequestHandler):
    """Serves files of the store to requests with a signature."""

    store: ClassVar[Any] = None
    status: ClassVar[int] = 206
    headers_seen: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.headers_seen.update(name.lower() for name in self.headers)
        parts = urlsplit(self.path)
        known = parse_qs(parts.query).get("X-Signature") == ["s3cr3t-s3cr3t-s3cr3t"]
        self.send_response(self.status if known else 403)
        self.end_headers()
        self.wfile.write(self.store.cat_file(parts.path) if known else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def signing(memory: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let the store sign URLs at a loopback address; yield the seconds of each signature."""
    Signing.store, Signing.status = memory, 206
    Signing.headers_seen.clear()
    asked: list[int] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Signing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"

        def sign(_: Any, path: str, expiration: int = 100) -> str:
            asked.append(expiration)
            return f"{base}{path}?X-Signature=s3cr3t-s3cr3t-s3cr3t&X-Expires={expiration}"

        monkeypatch.setattr(type(memory), "sign", sign)
        yield asked
        server.shutdown()


# --- the ways, in their order ----------------------------------------------------------------------


def test_a_store_signs_a_url_for_the_whole_wait(
    fast_emulator: Emulator, memory: Any, signing: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    memory.pipe_file("/b/ref.png", PNG)
    found = reachable(
        src_video="memory://b/in.mp4", src_ref_images=["memory://b/ref.png", "https://x.example/"]
    )
    assert requests.get(found["src_video"], timeout=60).content == MP4
    assert requests.get(found["src_ref_images"][0], timeout=60).content == PNG
    assert found["src_ref_images"][1] == "https://x.example/"
    assert found["prompt"] == "a fox"
    assert signing == [3600, 3600]
    assert not {"authorization", "apikey", "cookie"} & Signing.headers_seen
    assert fast_emulator.requests == []
    logged = capfd.readouterr().out
    assert "memory://b/in.mp4" in logged
    assert "signed URL, valid for 1.0 h" in logged
    assert "s3cr3t" not in logged


@pytest.mark.parametrize(("seconds", "asked"), [(5.0, 3600), (7200.0, 7200), (1e9, 7 * 86400)])
def test_a_signature_is_valid_long_enough_but_not_longer_than_stores_allow(
    fast_emulator: Emulator, memory: Any, signing: list[int], seconds: float, asked: int
) -> None:
    assert fast_emulator.url
    memory.pipe_file("/b/in.mp4", MP4)
    InputFiles(VaceHook(), seconds=seconds).reachable({"src_video": "memory://b/in.mp4"})
    assert signing == [asked]


@pytest.fixture(params=["replicate", "pruna"])
def uploading(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fast_emulator: Emulator
) -> None:
    connection = fast_emulator.connection_to(backend=request.param, timeout=2)
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)


@pytest.mark.usefixtures("uploading")
def test_a_file_without_a_signed_url_is_uploaded(fast_emulator: Emulator, memory: Any) -> None:
    content = MP4 + os.urandom(300_000)
    memory.pipe_file("/b/in put.mp4", content)
    found = reachable(src_video="memory://b/in put.mp4")
    assert fast_emulator.uploads.content_of(found["src_video"]) == content
    (post,) = [r for r in fast_emulator.requests if r.method == "POST"]
    assert post.path == "/v1/files"
    assert post.auth
    assert fast_emulator.bill["charged"] == 0


@pytest.mark.usefixtures("uploading")
def test_an_upload_is_tried_again_while_that_may_help(fast_emulator: Emulator, memory: Any) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    fast_emulator.faults.add(path="/v1/files", status=500)
    fast_emulator.faults.add(path="/v1/files", reset="before")
    assert fast_emulator.uploads.content_of(reachable(src_video="memory://b/in.mp4")["src_video"]) == MP4
    fast_emulator.faults.add(path="/v1/files", status=503, times=3)
    with pytest.raises(VaceTransportError, match="could not be uploaded, nothing was submitted") as caught:
        reachable(src_video="memory://b/in.mp4")
    assert not caught.value.sent
    fast_emulator.faults.add(path="/v1/files", status=403)
    with pytest.raises(VaceAPIError):
        reachable(src_video="memory://b/in.mp4")
    assert fast_emulator.faults.waiting() == []


@pytest.mark.usefixtures("uploading")
@pytest.mark.parametrize(
    "body", [{"id": "x"}, {"urls": {"get": 5}}, {"urls": {"get": "file:///etc"}}], ids=str
)
def test_an_upload_without_a_file_in_its_response_is_an_error(
    fast_emulator: Emulator, memory: Any, body: dict[str, Any]
) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    fast_emulator.faults.add(path="/v1/files", status=201, body=body)
    with pytest.raises(Exception, match="without the address of the file"):
        reachable(src_video="memory://b/in.mp4")


@pytest.mark.usefixtures("fast_emulator")
def test_a_small_file_becomes_a_data_url_without_uploads(memory: Any) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    head, _, data = reachable(src_video="memory://b/in.mp4")["src_video"].partition(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(data) == MP4


@pytest.mark.usefixtures("fast_emulator")
def test_a_file_that_grows_after_its_check_is_not_sent_in_part(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/b/in.mp4", MP4)
    sign = type(memory).sign

    def grown(store: Any, path: str, **options: Any) -> Any:
        memory.pipe_file(path, MP4 + bytes(upload.MAX_DATA_URL_BYTES))
        return sign(store, path, **options)

    monkeypatch.setattr(type(memory), "sign", grown)
    with pytest.raises(VaceTransportError, match=r"in\.mp4 has changed since its check"):
        reachable(src_video="memory://b/in.mp4")


@pytest.mark.usefixtures("fast_emulator")
def test_an_unreachable_file_gets_a_reason_for_each_way(memory: Any) -> None:
    memory.pipe_file("/b/in.mp4", MP4 + bytes(upload.MAX_DATA_URL_BYTES))
    with pytest.raises(VaceInputError) as caught:
        reachable(src_video="memory://b/in.mp4")
    for said in ("signs no URL", "'gateway' takes no uploads", "256 kB", "give an http(s) URL"):
        assert said in str(caught.value)
    assert caught.value.field == "src_video"


@pytest.mark.usefixtures("uploading")
def test_a_file_above_the_upload_limit_is_refused(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = fast_emulator.connection_to(backend="replicate", input_roots=[str(tmp_path)])
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    path = tmp_path / "in.mp4"
    path.write_bytes(MP4)
    os.truncate(path, upload.MAX_UPLOAD_BYTES + 1)  # a sparse file takes no space on the disk
    with pytest.raises(VaceInputError, match="100 MB are more than the 100 MB limit of an upload"):
        reachable(src_video=str(path))
    assert fast_emulator.requests == []


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_signed_url_that_its_store_refuses_is_not_sent(
    fast_emulator: Emulator, memory: Any, signing: list[int], status: int
) -> None:
    Signing.status = status
    memory.pipe_file("/b/in.mp4", MP4)
    assert reachable(src_video="memory://b/in.mp4")["src_video"].startswith("data:")
    assert len(signing) == 1
    memory.pipe_file("/b/in.mp4", MP4 + bytes(upload.MAX_DATA_URL_BYTES))
    with pytest.raises(VaceInputError, match=rf"refuses its own signed URL \({status}\)"):
        reachable(src_video="memory://b/in.mp4")
    assert fast_emulator.requests == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_store_with_a_transient_fault_may_sign_later(
    fast_emulator: Emulator, memory: Any, signing: list[int], status: int
) -> None:
    Signing.status = status
    memory.pipe_file("/b/in.mp4", MP4 + bytes(upload.MAX_DATA_URL_BYTES))
    with pytest.raises(VaceTransportError, match="Nothing was submitted") as caught:
        reachable(src_video="memory://b/in.mp4")
    assert not caught.value.sent
    Signing.status = 307
    assert reachable(src_video="memory://b/in.mp4")["src_video"].startswith("http://127.0.0.1")
    assert fast_emulator.requests == []
    assert len(signing) == 2


def test_a_store_that_cannot_sign_for_now_may_sign_later(
    fast_emulator: Emulator, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ConnectionError("the signer is away")

    monkeypatch.setattr(type(memory), "sign", broken)
    memory.pipe_file("/b/in.mp4", MP4 + bytes(upload.MAX_DATA_URL_BYTES))
    with pytest.raises(VaceTransportError, match="the signer is away"):
        reachable(src_video="memory://b/in.mp4")
    assert fast_emulator.requests == []


def test_a_private_store_is_no_use_to_a_public_back_end(
    memory: Any, signing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "vace", "host": "https://8.8.8.8", "password": "k"}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", json.dumps(connection))
    memory.pipe_file("/b/in.mp4", MP4)
    assert reachable(src_video="memory://b/in.mp4")["src_video"].startswith("data:")
    assert len(signing) == 1


# --- checks before money ---------------------------------------------------------------------------


@pytest.mark.usefixtures("fast_emulator")
@pytest.mark.parametrize(
    ("field", "content", "said"),
    [
        ("src_video", None, "does not exist"),
        ("src_video", b"", "is empty"),
        ("src_video", b"#!/bin/sh", "is no video by its content"),
        ("src_video", PNG, "is no video by its content"),
        ("src_ref_images", MP4, "is no image by its content"),
    ],
)
def test_a_file_is_checked_before_any_payment(
    memory: Any, field: str, content: bytes | None, said: str
) -> None:
    memory.pipe_file("/b/other", MP4)
    if content is not None:
        memory.pipe_file("/b/in", content)
    with pytest.raises(VaceInputError, match=said) as caught:
        reachable(**{field: "memory://b/in"})
    assert caught.value.field == field
    assert "Nothing is billed" in str(caught.value)


@pytest.mark.usefixtures("fast_emulator")
def test_an_animated_gif_will_do_for_either(memory: Any) -> None:
    memory.pipe_file("/b/in", GIF)
    assert reachable(src_video="memory://b/in", src_ref_images="memory://b/in")


@pytest.mark.usefixtures("fast_emulator")
def test_a_mask_is_of_the_kind_and_the_dimensions_of_its_video(memory: Any, tmp_path: Path) -> None:
    memory.pipe_file("/b/video.mp4", film(tmp_path / "a.mp4", 64, 48).read_bytes())
    memory.pipe_file("/b/same.mp4", film(tmp_path / "b.mp4", 64, 48).read_bytes())
    memory.pipe_file("/b/larger.mp4", film(tmp_path / "c.mp4", 96, 48).read_bytes())
    memory.pipe_file("/b/image.png", PNG)
    assert reachable(src_video="memory://b/video.mp4", src_mask="memory://b/same.mp4")
    assert reachable(src_video="https://x.example/a.mp4", src_mask="memory://b/larger.mp4")
    for mask, said in (("larger.mp4", r"\(96, 48\) and \(64, 48\)"), ("image.png", "another kind")):
        with pytest.raises(VaceInputError, match=said) as caught:
            reachable(src_video="memory://b/video.mp4", src_mask=f"memory://b/{mask}")
        assert caught.value.field == "src_mask"


@pytest.mark.usefixtures("fast_emulator")
@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        (PermissionError("no"), VaceInputError, "may not be read"),
        (RuntimeError("odd"), VaceTransportError, "nothing was submitted"),
    ],
)
def test_a_store_in_trouble_differs_from_one_that_refuses(
    memory: Any, monkeypatch: pytest.MonkeyPatch, trouble: Exception, kind: type[Exception], said: str
) -> None:
    def info(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(type(memory), "info", info)
    with pytest.raises(kind, match=said):
        reachable(src_video="memory://b/in.mp4")


@pytest.mark.usefixtures("fast_emulator")
def test_a_store_that_breaks_off_while_a_file_is_read_submits_nothing(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/b/in.mp4", MP4)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(type(memory), "open", broken)
    with pytest.raises(VaceTransportError, match="nothing was submitted"):
        reachable(src_video="memory://b/in.mp4")


# --- local files -----------------------------------------------------------------------------------


@pytest.fixture
def rooted(fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An allowed directory beside a forbidden one."""
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder in (allowed, secret, allowed / "sub"):
        folder.mkdir()
        (folder / "a clip.mp4").write_bytes(MP4)
    (allowed / "link.mp4").symlink_to(secret / "a clip.mp4")
    (allowed / "inner.mp4").symlink_to(allowed / "sub" / "a clip.mp4")
    os.mkfifo(allowed / "pipe.mp4")
    connection = fast_emulator.connection_to(input_roots=[str(allowed)])
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)
    return allowed


def test_a_plain_absolute_path_names_a_local_file_too(rooted: Path) -> None:
    assert reachable(src_video=f"{rooted}/a clip.mp4")["src_video"].startswith("data:video/mp4")


def test_a_file_that_is_swapped_after_its_check_is_not_sent(
    rooted: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, secret = rooted / "inner.mp4", rooted.parent / "secret" / "a clip.mp4"

    def swap(*_: object, **__: object) -> str:
        """Attack between the checks of all files and the use of the second one."""
        (rooted / "sub" / "a clip.mp4").unlink()
        (rooted / "sub" / "a clip.mp4").symlink_to(secret)
        raise NotImplementedError

    monkeypatch.setattr(type(memory), "sign", swap)
    memory.pipe_file("/b/in.mp4", MP4)
    with pytest.raises(VaceTransportError, match="The file was replaced after its check"):
        reachable(src_video="memory://b/in.mp4", src_mask=f"file://{path}")


@pytest.mark.parametrize("name", ["a%20clip.mp4", "sub/a%20clip.mp4", "inner.mp4", "sub/../a clip.mp4"])
def test_a_local_file_below_an_allowed_directory_is_sent(rooted: Path, name: str) -> None:
    data = reachable(src_video=f"file://{rooted}/{name}")["src_video"]
    assert base64.b64decode(data.partition(",")[2]) == MP4


def test_path_objects_name_local_files_too(rooted: Path) -> None:
    from airflow.sdk import ObjectStoragePath

    for path in (rooted / "a clip.mp4", ObjectStoragePath(f"file://{rooted}/inner.mp4")):
        assert reachable(src_video=path)["src_video"].startswith("data:video/mp4")


@pytest.mark.parametrize(
    "path",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file://localhost/etc/passwd",
        "local:///etc/passwd",
        "file:///proc/self/environ",
        "file://{root}/../secret/a clip.mp4",
        "file://{root}/%2e%2e/secret/a%20clip.mp4",
        "file://{root}/sub/../../secret/a clip.mp4",
        "file://{root}/link.mp4",
        "file://{root}",
        "file://{root}/",
        "file://{root}/sub",
        "file://{root}/pipe.mp4",
        "file://{root}/none.mp4",
        "file://{root}x/a.mp4",
        "file://relative/a.mp4",
        "simplecache::file://{root}/a clip.mp4",
        "zip://a.mp4::file:///etc/passwd",
        "reference://etc/passwd",
        "dir:///etc/passwd",
        "/etc/passwd",
        "file:/etc/passwd",
        "~/a.mp4",
        "../a.mp4",
    ],
)
def test_no_other_file_of_the_machine_is_sent(rooted: Path, fast_emulator: Emulator, path: str) -> None:
    with pytest.raises(VaceInputError) as caught:
        reachable(src_video=path.format(root=rooted))
    assert caught.value.field == "src_video"
    assert "root:" not in str(caught.value)
    assert fast_emulator.requests == []


def test_without_allowed_directories_no_local_file_is_sent(fast_emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(MP4)
    with pytest.raises(VaceInputError, match="'input_roots'"):
        reachable(src_video=f"file://{tmp_path}/a.mp4")
    assert fast_emulator.requests == []


@pytest.mark.parametrize(
    ("said", "roots"),
    [
        ("/a, /b/c", ("/a", "/b/c")),
        ('["/a", "/b,c"]', ("/a", "/b,c")),
        (["/a"], ("/a",)),
        (None, ()),
        ("", ()),
        ([], ()),
    ],
)
def test_input_roots_are_a_list_or_text(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, said: Any, roots: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(input_roots=said))
    assert VaceHook().settings.input_roots == roots


@pytest.mark.parametrize("said", ["relative", ["/a", 5], {"a": 1}, 7])
def test_invalid_input_roots_are_named(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(input_roots=said))
    with pytest.raises(VaceInputError, match="input_roots"):
        _ = VaceHook().settings


# --- secrets -------------------------------------------------------------------------


def test_signatures_are_masked_wherever_they_may_be_written() -> None:
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

    url = "https://x.example/a.mp4?X-Amz-Signature=0123456789abcdef01&X-Amz-Expires=3600&sig=ab%2Fcdefghijklmnop"
    mask_signatures({"src_video": url, "src_ref_images": [url], "prompt": "https://[", "seed": 7})
    shown = str(redact(url))
    assert "0123456789abcdef01" not in shown
    assert "cdefghijklmnop" not in shown
    assert "X-Amz-Expires=3600" in shown
