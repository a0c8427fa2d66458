"""Outputs of any kind: saved whole, under their own suffix and media type."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.exceptions import VaceAPIError, VaceInputError, VaceTransportError
from airflow_vace.hooks import VaceHook
from airflow_vace.storage.find import find_saved
from airflow_vace.storage.save import save_output
from airflow_vace.storage.suffixes import Announced, file_type, safe_suffix
from support.file_host import FileHost, file
from support.films import GIF, MP4, box
from support.saving import succeeded, to
from support.scripted import head
from support.stores import files_in

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("hurry")

TEXT = "1\n00:00:00,000 --> 00:00:01,000\nfüchse\n".encode()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("frame.png", b"x" * 100)
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    # With the time of day in a test's name the workers of pytest-xdist would differ.
    return gzip.compress(content.getvalue(), mtime=0)


WAV = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40
SAFETENSORS = (2).to_bytes(8, "little") + b'{"a":1}' + b"\0" * 9
MOV = box(b"wide") + box(b"mdat", b"film") + box(b"moov")
FTYP_MOV = box(b"ftyp", b"qt  \0\0\0\0") + box(b"moov") + box(b"mdat", b"film")
M4A = box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov") + box(b"mdat", b"song")
AVIF = box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + box(b"meta") + b"\0" * 64
TS = (b"\x47" + b"\xff" * 187) * 5
MKV = b"\x1a\x45\xdf\xa3\x42\x82\x88matroska"
NOTHING_KNOWN = b"\x01\x02\x03\x04" * 20


@pytest.mark.parametrize(
    ("name", "content", "suffix_and_kind"),
    [
        ("a.wav", WAV, ".wav audio/wav"),
        ("a", b"ID3\x04\0\0\0\0\0\0", ".mp3 audio/mpeg"),
        ("a", b"\xff\xfb\x90\x64" + b"\0" * 400, ".mp3 audio/mpeg"),
        ("a", b"\xff\xf1\x50\x80" + b"\0" * 400, ".aac audio/aac"),
        ("a", b"fLaC\0\0\0\x22", ".flac audio/flac"),
        ("a", b"OggS\0\x02" + b"\0" * 22 + b"\x01vorbis", ".ogg audio/ogg"),
        ("a.opus", b"OggS\0\x02" + b"\0" * 22 + b"OpusHead", ".opus audio/ogg"),
        ("a", b"OggS\0\x02" + b"\0" * 22 + b"\x80theora", ".ogv video/ogg"),
        ("a", b"FORM\0\0\0\x20AIFFCOMM", ".aiff audio/aiff"),
        ("a", M4A, ".m4a audio/mp4"),
        ("a.zip", zipped(), ".zip application/zip"),
        ("a.npz", zipped(), ".npz application/x-npz"),
        ("a.tar.gz", tarred(), ".tar.gz application/gzip"),
        ("a", tarred(), ".gz application/gzip"),
        ("a.glb", b"glTF\x02\0\0\0\x0c\0\0\0", ".glb model/gltf-binary"),
        ("a.gltf", b'{"asset": {"version": "2.0"}}', ".gltf model/gltf+json"),
        ("a.obj", b"v 0 0 0\nf 1 1 1\n", ".obj model/obj"),
        ("a.ply", b"ply\nformat binary_little_endian 1.0\n\0\1", ".ply model/ply"),
        ("a.stl", b"solid fox\n", ".stl model/stl"),
        ("a.stl", b"\0" * 84, ".stl model/stl"),
        ("a.safetensors", SAFETENSORS, ".safetensors application/x-safetensors"),
        ("a.srt", TEXT, ".srt application/x-subrip"),
        ("a.srt", "füchse\n".encode("latin-1"), ".srt application/x-subrip"),
        ("a", TEXT, ".txt text/plain"),
        ("a", "füchse".encode("utf-16"), ".txt text/plain"),
        ("a.csv", b"a,b\n1,2\n", ".csv text/csv"),
        ("info.json", b'{"fps": 16}', ".json application/json"),
        ("a", b'[{"error": null}]', ".json application/json"),
        ("error.json", b'{"error": "of the analysis"}', ".json application/json"),
        ("a.svg", b"<?xml version='1.0'?><svg xmlns='x'/>", ".svg image/svg+xml"),
        ("a", b"<?xml version='1.0'?><tt/>", ".xml application/xml"),
        ("a", b"%PDF-1.7\n", ".pdf application/pdf"),
        ("a.ts", TS, ".ts video/mp2t"),
        ("a.ts", b"const x = 1;\n", ".txt text/plain"),
        ("a.csv.gz", b"a,b\n", ".csv text/csv"),
        ("a.gz", TEXT, ".txt text/plain"),
        ("a.ass", b"[Script Info]\n", ".ass text/x-ass"),
        ("a.lrc", b"[00:01.00]fox\n", ".lrc text/x-lrc"),
        ("a.toml", b"[fox]\nlegs = 4\n", ".toml application/toml"),
        ("a.ini", b"[fox]\nlegs=4\n", ".ini text/plain"),
        ("a.mpd", b"<?xml version='1.0'?><MPD/>", ".mpd application/dash+xml"),
        ("a.geojson", b'{"type": "Point"}', ".geojson application/geo+json"),
        ("a.wav", b"RF64" + WAV[4:], ".wav audio/wav"),
        ("a.m4a", MP4, ".m4a audio/mp4"),
        ("a.m4b", MP4, ".m4b audio/mp4"),
        ("a.3gp", MP4, ".3gp video/3gpp"),
        ("a", b"".join(b"\0\0\0\0" + TS[:188] for _ in range(3)), ".ts video/mp2t"),
        ("a.mp4", MOV, ".mov video/quicktime"),
        ("a.mp4", FTYP_MOV, ".mov video/quicktime"),
        ("a", MKV, ".mkv video/x-matroska"),
        ("a.avi", b"RIFF\0\0\0\0AVI LIST", ".avi video/x-msvideo"),
        ("a.avif", AVIF, ".avif image/avif"),
        ("a", box(b"ftyp", b"heic") + box(b"meta"), ".heic image/heic"),
        ("a", b"\0" * 257 + b"ustar\0" + b"\0" * 249, ".tar application/x-tar"),
        ("a.ckpt", NOTHING_KNOWN, ".ckpt application/octet-stream"),
        ("a.mp4", NOTHING_KNOWN, ".bin application/octet-stream"),
        ("setup.mp4.exe", NOTHING_KNOWN, ".bin application/octet-stream"),
        ("a.sh", b"#!/bin/sh\n", ".txt text/plain"),
    ],
)
def test_a_whole_file_is_saved_as_its_own_kind(
    connect: Callable[[str], None], tmp_path: Path, name: str, content: bytes, suffix_and_kind: str
) -> None:
    suffix, kind = suffix_and_kind.split()
    with FileHost(lambda *_: file(content, Content_Type="application/octet-stream")) as host:
        connect(host.connection)
        (saved,) = save_output(VaceHook(), succeeded(output=f"{host.url}/{name}"), to(f"{tmp_path}/", None))
    assert len(host.seen) == 1
    assert (Path(saved["uri"][7:]).name, saved["content_type"]) == (f"abc{suffix}", kind)
    assert (tmp_path / f"abc{suffix}").read_bytes() == content


@pytest.mark.parametrize(
    ("headers", "name", "suffix_and_kind"),
    [
        ({"Content_Type": "model/vnd.usdz+zip"}, "a", ".usdz model/vnd.usdz+zip"),
        ({"Content_Disposition": 'attachment; filename="../../x y.stl"'}, "a", ".stl model/stl"),
        ({"Content_Disposition": "attachment; filename*=UTF-8''a%2Ecsv"}, "a.txt", ".csv text/csv"),
        ({"Content_Type": "text/csv; charset=utf-8"}, "a", ".csv text/csv"),
        ({"Content_Type": "audio/x-wav"}, "a", ".bin application/octet-stream"),
        ({"Content_Type": "nonsense"}, "a", ".bin application/octet-stream"),
    ],
)
def test_without_a_signature_the_headers_give_the_suffix(
    connect: Callable[[str], None], tmp_path: Path, headers: dict[str, str], name: str, suffix_and_kind: str
) -> None:
    suffix, kind = suffix_and_kind.split()
    content = b"a,b\n" if suffix == ".csv" else NOTHING_KNOWN
    with FileHost(lambda *_: file(content, **headers)) as host:
        connect(host.connection)
        (saved,) = save_output(VaceHook(), succeeded(output=f"{host.url}/{name}"), to(f"{tmp_path}/", None))
    assert (Path(saved["uri"][7:]).name, saved["content_type"]) == (f"abc{suffix}", kind)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.WAV", ".wav"),
        ("..\\..\\a.zip", ".zip"),
        ("a.tar.gz", ".tar.gz"),
        ("a.nii.gz", ".nii.gz"),
        ("a.exe.gz", ".gz"),
        ("a.mp4.exe", None),
        ("a.html", None),
        ("a.x y", None),
        ("a." + "x" * 300, None),
        ("a", None),
        (".bashrc", None),
        ("a.mp4/..", None),
    ],
)
def test_a_suffix_of_a_name_is_safe_or_none(name: str, suffix: str | None) -> None:
    assert safe_suffix(name) == suffix


def test_a_name_of_a_strange_form_gives_no_suffix() -> None:
    assert Announced.of("https://[x/a.wav").likely_suffix == ".mp4"
    assert Announced.of("https://a/b", "audio/mpeg").likely_suffix == ".mp3"
    assert file_type("video/mp4", Announced.of("https://a/b.m4v")).suffix == ".m4v"


def test_a_file_of_no_known_video_or_image_is_logged(
    connect: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = {"/a.wav": WAV, "/a.mp4": MP4}
    with FileHost(lambda path, _: file(contents[path])) as host:
        connect(host.connection)
        output = [f"{host.url}/a.wav", f"{host.url}/a.mp4"]
        save_output(VaceHook(), succeeded(output=output), to(f"{tmp_path}/", None))
    warnings = [line for line in capfd.readouterr().out.splitlines() if "no known video or image" in line]
    assert len(warnings) == 1
    assert "abc-1.wav" in warnings[0]


@pytest.mark.parametrize(
    ("save_to", "names"),
    [
        ("clip.mp4", ["clip-1.mp4", "clip-2.mp4", "clip-3.wav", "clip-4.zip"]),
        ("voice.wav", ["voice-1.mp4", "voice-2.gif", "voice-3.wav", "voice-4.zip"]),
        ("all.tar.gz", ["all-1.mp4", "all-2.gif", "all-3.wav", "all-4.zip"]),
        ("all.txt", ["all-1.mp4", "all-2.gif", "all-3.wav", "all-4.zip"]),
    ],
)
def test_a_fixed_name_keeps_its_ending_for_files_of_its_kind(
    connect: Callable[[str], None], tmp_path: Path, save_to: str, names: list[str]
) -> None:
    contents = {"/a.mp4": MP4, "/a.gif": GIF, "/a.wav": WAV, "/a.zip": zipped()}
    with FileHost(lambda path, _: file(contents[path])) as host:
        connect(host.connection)
        prediction = succeeded(output=[host.url + path for path in contents])
        destination = to(f"{tmp_path}/{save_to}")
        files = save_output(VaceHook(), prediction, destination)
        assert [Path(saved["uri"]).name for saved in files] == names
        assert save_output(VaceHook(), prediction, destination) == files
        assert find_saved(VaceHook(), destination, "abc") == files
        assert destination.holds(_with_files(prediction, files), VaceHook.timing)
    assert len(host.seen) == 4


def _with_files(prediction: Any, files: list[dict[str, Any]]) -> Any:
    from dataclasses import replace

    return replace(prediction, files=files)


def test_an_own_ending_that_does_not_fit_gives_way(connect: Callable[[str], None], tmp_path: Path) -> None:
    with FileHost(lambda *_: file(SAFETENSORS)) as host:
        connect(host.connection)
        destination = to(f"{tmp_path}/{'a' * 241}.mp4")
        assert destination.check() is None
        (saved,) = save_output(VaceHook(), succeeded(output=f"{host.url}/a.safetensors"), destination)
    assert saved["uri"].endswith("a.mp4")


def test_files_of_any_kind_are_found_in_a_store_that_lists_nothing(
    connect: Callable[[str], None], memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"/a.zip": zipped(), "/a.wav": WAV}
    with FileHost(lambda path, _: file(contents[path])) as host:
        connect(host.connection)
        output = [host.url + path for path in contents]
        files = save_output(VaceHook(), succeeded(output=output), to("memory://b/clips/"))

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("no s3:ListBucket")

    monkeypatch.setattr(type(memory), "ls", refused)
    assert find_saved(VaceHook(), to("memory://b/clips/"), "abc") == files


# --- no file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("a.mp4", file(b"not found", Content_Type="video/mp4"), "brought no video/mp4, but text"),
        (
            "a.mp4",
            file(b'{"error": "expired"}', Content_Type="application/json"),
            "brought no video/mp4, but text",
        ),
        ("a", file(b'{"error": "expired"}', Content_Type="video/mp4"), "brought no video/mp4, but text"),
        (
            "a",
            file(b'{"detail": "Not authenticated"}', Content_Type="application/json"),
            "brought an error message",
        ),
        ("a", file(b"<?xml version='1.0'?><Error><Code>X</Code></Error>"), "an error message"),
        (
            "a.zip",
            file(b"<!-- x --><html><body>Sign in", Content_Type="text/html"),
            "an HTML page",
        ),
        ("a.json", file(b"\xef\xbb\xbf<!DOCTYPE html>", Content_Type="text/html"), "an HTML page"),
        ("a", file(b""), "an empty file"),
        ("a.mp4", file(MP4[:-1]), "an MP4 that ends within a box"),
        ("a.mov", file(box(b"wide") + box(b"mdat", b"film")), "no whole MP4"),
        ("a.avif", file(AVIF[:36] + (200).to_bytes(4) + b"mdat"), "that ends within a box"),
    ],
)
def test_a_message_or_a_part_of_a_file_is_refused(
    connect: Callable[[str], None], tmp_path: Path, name: str, answer: bytes, said: str
) -> None:
    with FileHost(lambda *_: answer) as host:
        connect(host.connection)
        with pytest.raises(VaceTransportError, match=said):
            save_output(VaceHook(), succeeded(output=f"{host.url}/{name}"), to(f"{tmp_path}/", None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a.wav", b"RIFF" + (92).to_bytes(4, "little") + b"WAVE" + b"x" * 88),
        ("a.glb", b"glTF\x02\0\0\0" + (100).to_bytes(4, "little") + b"x" * 88),
    ],
)
def test_without_a_length_a_files_own_header_shows_a_truncation(
    connect: Callable[[str], None], tmp_path: Path, name: str, whole: bytes
) -> None:
    answers = [whole[:50], whole]
    with FileHost(lambda *_: head("200 OK") + answers.pop(0)) as host:
        connect(host.connection)
        (saved,) = save_output(VaceHook(), succeeded(output=f"{host.url}/{name}"), to(f"{tmp_path}/", None))
    assert saved["size"] == 100
    assert answers == []


# --- compressed although not asked for -------------------------------------------------------------


def deflated(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


LARGE = MP4 + box(b"free", bytes(3_000_000))


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("gzip", gzip.compress(LARGE)),
        ("X-GZIP", gzip.compress(LARGE[:1000]) + gzip.compress(LARGE[1000:]) + b"\0" * 20),
        ("deflate", zlib.compress(LARGE)),
        ("deflate", deflated(LARGE)),
        ("gzip, deflate", zlib.compress(gzip.compress(LARGE))),
        ("gzip", LARGE),
        ("deflate", LARGE),
        ("utf-8", LARGE),
        ("identity", LARGE),
    ],
    ids=["gzip", "members", "zlib", "raw", "twice", "no gzip", "no zlib", "a charset", "identity"],
)
def test_a_compressed_file_is_saved_as_it_is(
    connect: Callable[[str], None], tmp_path: Path, encoding: str, sent: bytes
) -> None:
    headers = {"Content_Encoding": encoding, "ETag": '"1"'}
    with FileHost(lambda *_: file(sent, **headers)) as host:
        connect(host.connection)
        (saved,) = save_output(VaceHook(), succeeded(output=f"{host.url}/a.mp4"), to(f"{tmp_path}/", None))
    assert saved["size"] == len(LARGE)
    assert (tmp_path / "abc.mp4").read_bytes() == LARGE
    assert len(host.seen) == 1


@pytest.mark.parametrize("how", ["length", "no length"])
def test_an_interrupted_compressed_file_is_fetched_from_its_start(
    connect: Callable[[str], None], tmp_path: Path, how: str
) -> None:
    sent = gzip.compress(LARGE)
    headers = {"Content_Length": len(sent)} if how == "length" else {}
    answers = [sent[: len(sent) // 2], sent]

    def respond(*_: str) -> bytes:
        return head("200 OK", Content_Encoding="gzip", ETag='"1"', **headers) + answers.pop(0)

    with FileHost(respond) as host:
        connect(host.connection)
        save_output(VaceHook(), succeeded(output=f"{host.url}/a.mp4"), to(f"{tmp_path}/", None))
    assert (tmp_path / "abc.mp4").read_bytes() == LARGE
    assert not any("range:" in request.lower() for _, request in host.seen)


def test_a_decompression_bomb_ends_at_the_limit(connect: Callable[[str], None], tmp_path: Path) -> None:
    bomb = gzip.compress(MP4 + bytes(50_000_000))
    with FileHost(lambda *_: file(bomb, Content_Encoding="gzip")) as host:
        connect(host.connection.replace('"timeout": 5', '"timeout": 5, "max_output_mb": 2'))
        with pytest.raises(VaceInputError, match="larger than the 2 MB"):
            save_output(VaceHook(), succeeded(output=f"{host.url}/a.mp4"), to(f"{tmp_path}/", None))
    assert list(tmp_path.iterdir()) == []


# --- text, JSON, data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "name", "kind"),
    [
        ("Füchse jagen.", "abc.txt", "text/plain"),
        ("<html>is a tag", "abc.txt", "text/plain"),
        ({"fps": 16, "words": ["fox"]}, "abc.json", "application/json"),
        (["See ", "a.mp4"], "abc.json", "application/json"),
        (0.5, "abc.json", "application/json"),
        (False, "abc.json", "application/json"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("any_connection")
def test_an_output_without_an_address_is_the_file(tmp_path: Path, output: Any, name: str, kind: str) -> None:
    prediction = succeeded(output=output)
    (saved,) = save_output(VaceHook(), prediction, to(f"{tmp_path}/", None))
    assert (Path(saved["uri"]).name, saved["content_type"]) == (name, kind)
    content = (tmp_path / name).read_text()
    assert (content if isinstance(output, str) else json.loads(content)) == output
    assert json.loads((tmp_path / f"{name}.json").read_text())["outputs"] == 1
    assert find_saved(VaceHook(), to(f"{tmp_path}/", None), "abc") == [saved]


@pytest.mark.parametrize(
    "url",
    [
        "data:video/mp4;base64,{line}\n{rest}",
        "data:video/mp4;base64,{safe}",
        "data:video/mp4;base64,{bare}",
        "data:video/mp4;charset=x;BASE64 ,{quoted}",
        "data:video/mp4,{percent}",
    ],
)
@pytest.mark.usefixtures("any_connection")
def test_a_data_url_is_read_however_it_is_encoded(tmp_path: Path, url: str) -> None:
    import base64

    film = MP4 + box(b"free", b"\xfb\xff\xbf" * 5 + b"x")
    text = base64.b64encode(film).decode()
    forms = {
        "line": text[:40],
        "rest": f"\r\n {text[40:]}",
        "safe": base64.urlsafe_b64encode(film).decode(),
        "bare": text.rstrip("="),
        "quoted": text.replace("=", "%3D").replace("+", "%2B"),
        "percent": "".join(f"%{byte:02x}" for byte in film),
    }
    (saved,) = save_output(VaceHook(), succeeded(output=url.format(**forms)), to(f"{tmp_path}/", None))
    assert Path(saved["uri"][7:]).read_bytes() == film


# --- some of several outputs -----------------------------------------------------------------------


@pytest.mark.parametrize("root", ["local", "store"])
def test_a_missing_output_does_not_keep_the_others(
    connect: Callable[[str], None], tmp_path: Path, memory: Any, root: str
) -> None:
    place = f"{tmp_path}/clips/" if root == "local" else "memory://b/clips/"
    contents = {"/1.mp4": MP4, "/3.wav": WAV}
    missing = head("500 Trouble", Content_Length=0)
    with FileHost(lambda path, _: file(contents[path]) if path in contents else missing) as host:
        connect(host.connection)
        prediction = succeeded(output=[f"{host.url}/1.mp4", f"{host.url}/2.zip", f"{host.url}/3.wav"])
        with pytest.raises(VaceAPIError, match=r"1 of the 3 outputs .* output 2 of 3: .*/2.zip") as caught:
            save_output(VaceHook(), prediction, to(place))
        assert [saved["uri"].rpartition(".")[2] for saved in caught.value.files] == ["mp4", "wav"]
        assert "at no cost" in str(caught.value)
        contents["/2.zip"] = zipped()
        before = len(host.seen)
        files = save_output(VaceHook(), prediction, to(place))
        assert [path for path, _ in host.seen[before:]] == ["/2.zip"]
    assert [saved["uri"].rpartition(".")[2] for saved in files] == ["mp4", "zip", "wav"]
    assert find_saved(VaceHook(), to(place), "abc") == files
    assert bool(files_in(memory)) == (root == "store")


def test_of_several_missing_outputs_the_first_that_a_retry_may_bring_decides(
    connect: Callable[[str], None], tmp_path: Path
) -> None:
    def respond(path: str, _: str) -> bytes:
        return head("418 Teapot" if path == "/1.mp4" else "503 Trouble", Content_Length=0)

    with FileHost(respond) as host:
        connect(host.connection)
        prediction = succeeded(output=[f"{host.url}/{number}.mp4" for number in range(1, 9)])
        with pytest.raises(Exception, match=r"8 of the 8 outputs .*418.*and 3 more.*Saved: none") as caught:
            save_output(VaceHook(), prediction, to(f"{tmp_path}/", None))
    assert getattr(caught.value, "status_code", None) == 503


def test_a_host_that_is_away_does_not_cost_hours(
    connect: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import scale_waits

    scale_waits(monkeypatch, 1.0, max_download_seconds=0.0)
    with FileHost(lambda *_: head("503 Trouble", Content_Length=0)) as host:
        connect(host.connection)
        prediction = succeeded(output=[f"{host.url}/{number}.mp4" for number in range(50)])
        with pytest.raises(Exception, match="no time was left"):
            save_output(VaceHook(), prediction, to(f"{tmp_path}/", None))
    assert len(host.seen) == 1
