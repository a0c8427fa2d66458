"""Addresses of files as gateways write them, and the key beside a signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_vace.exceptions import VaceAPIError, VaceProtocolError
from airflow_vace.hooks import VaceHook
from support.file_host import FileHost, file
from support.scripted import head

if TYPE_CHECKING:
    from collections.abc import Callable

FILM = b"film"


def fetched(url: str) -> bytes:
    with VaceHook().open_file(url) as download:
        return b"".join(download.chunks)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("{host}/my clip.mp4", "/my%20clip.mp4"),
        (" {host}/a.mp4\n", "/a.mp4"),
        ("{host}/狐狸.mp4", "/%E7%8B%90%E7%8B%B8.mp4"),
        ("{host}/fox🦊.mp4?name=狐", "/fox%F0%9F%A6%8A.mp4?name=%E7%8B%90"),
        ("{host}/50% off%20x.mp4", "/50%25%20off%20x.mp4"),
        ("{host}/caf%C3%A9.mp4?sig=a+b/c==", "/caf%C3%A9.mp4?sig=a+b/c=="),
        ("{host}/a\\b.mp4", "/a%5Cb.mp4"),
        ("/files/a.mp4", "/files/a.mp4"),
        ("/files/my clip.mp4", "/files/my%20clip.mp4"),
        ("a.mp4", "/a.mp4"),
        ("./out/a.mp4?x=1", "/out/a.mp4?x=1"),
        ("//{place}/a.mp4", "/a.mp4"),
    ],
)
def test_an_address_is_fetched_however_it_is_written(
    connect: Callable[[str], None], written: str, asked: str
) -> None:
    with FileHost(lambda *_: file(FILM)) as host:
        connect(host.connection)
        place = host.url.removeprefix("http://")
        assert fetched(written.format(host=host.url, place=place)) == FILM
    assert [path for path, _ in host.seen] == [asked]
    assert host.keys == [True]


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/狐 狸.mp4".encode(), "/%E7%8B%90%20%E7%8B%B8.mp4"),
        ("/café.mp4".encode("latin-1"), "/caf%E9.mp4"),
        (b"b.mp4", "/out/b.mp4"),
    ],
    ids=["UTF-8", "Latin-1", "relative"],
)
def test_a_redirect_with_raw_letters_is_followed(
    connect: Callable[[str], None], location: bytes, asked: str
) -> None:
    def respond(path: str, _: str) -> bytes:
        if path != "/out/a.mp4":
            return file(FILM)
        return (
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: "
            + location
            + b"\r\n\r\n"
        )

    with FileHost(respond) as host:
        connect(host.connection)
        assert fetched("out/a.mp4") == FILM
    assert [path for path, _ in host.seen] == ["/out/a.mp4", asked]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.2\\@x.example/a", "http://a b/x", "http://münchen..example/", "http://[x"]
)
def test_an_ambiguous_host_is_refused(connect: Callable[[str], None], url: str) -> None:
    with FileHost(lambda *_: file(FILM)) as host:
        connect(host.connection)
        with pytest.raises(VaceProtocolError, match=r"no http\(s\) address"):
            fetched(url)
    assert host.seen == []


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden"])
@pytest.mark.parametrize("path", ["/a.mp4?X-Amz-Signature=1", "/public/a.mp4"])
def test_a_file_whose_host_refuses_the_key_is_fetched_without(
    connect: Callable[[str], None], status: str, path: str
) -> None:
    def respond(_: str, request: str) -> bytes:
        refused = head(status, Content_Length=0)
        return refused if "authorization:" in request.lower() else file(FILM)

    with FileHost(respond) as host:
        connect(host.connection)
        hook = VaceHook()
        for _ in range(2):
            with hook.open_file(f"{host.url}{path}") as download:
                assert b"".join(download.chunks) == FILM
    # The second download goes without the key at once.
    assert host.keys == [True, False, False]


@pytest.mark.parametrize(
    ("with_key", "without_key", "named"),
    [("403 Forbidden", "401 Unauthorized", 403), ("400 Bad Request", "403 Forbidden", 403)],
)
def test_of_two_refusals_the_telling_one_is_raised(
    connect: Callable[[str], None], with_key: str, without_key: str, named: int
) -> None:
    def respond(_: str, request: str) -> bytes:
        return head(with_key if "authorization:" in request.lower() else without_key, Content_Length=0)

    with FileHost(respond) as host:
        connect(host.connection)
        with pytest.raises(VaceAPIError) as caught:
            fetched("/a.mp4")
    assert caught.value.status_code == named
    assert host.keys == [True, False]


def test_a_refusal_of_the_request_without_a_key_ends_the_download(connect: Callable[[str], None]) -> None:
    with FileHost(lambda *_: head("404 Not Found", Content_Length=0)) as host:
        connect(host.connection)
        with pytest.raises(VaceAPIError):
            fetched("/a.mp4")
    assert host.keys == [True]


@pytest.mark.parametrize("status", [302, 307])
def test_the_key_goes_to_no_other_port_by_a_relative_address(
    connect: Callable[[str], None], status: int
) -> None:
    with FileHost(lambda *_: file(FILM)) as other:
        moved = head(f"{status} Found", Content_Length=0, Location=f"//{other.url[7:]}/b c.mp4")
        with FileHost(lambda *_: moved) as host:
            connect(host.connection)
            assert fetched("/a.mp4") == FILM
            assert fetched(f"//{other.url[7:]}/d.mp4") == FILM
    assert host.keys == [True]
    assert other.keys == [False, False]
