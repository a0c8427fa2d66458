"""Addresses of files, as servers write them, and their origin."""

from __future__ import annotations

import pytest

from airflow_vace.core.origins import (
    address_of,
    check_base_url,
    header_text,
    is_http,
    own_page,
    own_url,
    without_user,
)
from airflow_vace.exceptions import VaceInputError

BASE = "https://gateway.example/api/"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("https://a.example/b.mp4?x=1#y", "https://a.example/b.mp4?x=1#y"),
        ("HTTPS://a.example/my clip.mp4", "https://a.example/my%20clip.mp4"),
        ("https://bücher.example:8443/é", "https://xn--bcher-kva.example:8443/%C3%A9"),
        ("https://a.example/50%.mp4?q=%zz", "https://a.example/50%25.mp4?q=%25zz"),
        ("https://a.example/half \ud83d pair", "https://a.example/half%20%3F%20pair"),
        ("/files/a.mp4", "https://gateway.example/files/a.mp4"),
        ("a.mp4", "https://gateway.example/api/a.mp4"),
        ("//b.example/a.mp4", "https://b.example/a.mp4"),
        ("//[::1", "//[::1"),
        ("ftp://a.example/b", "ftp://a.example/b"),
        (f"https://{'ü' * 70}.example/", f"https://{'ü' * 70}.example/"),
        ("https://ü@b.example/", "https://ü@b.example/"),
    ],
)
def test_an_address_becomes_ascii_without_a_change_of_its_host(written: str, address: str) -> None:
    assert address_of(BASE, written) == address
    assert is_http(address) == (address.startswith("https://") and address.isascii())


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://fox:p%40ss@b.example/a@b", ("https://b.example/a@b", "fox:p@ss")),
        ("http://token@[::1]:80/", ("http://[::1]:80/", "token")),
        ("https://b.example/a@b", ("https://b.example/a@b", None)),
        ("https://a@b@c.example/", ("https://a@b@c.example/", None)),
        ("https://a\\@b.example/", ("https://a\\@b.example/", None)),
    ],
)
def test_user_info_is_taken_out_of_an_unambiguous_address(url: str, parts: tuple[str, str | None]) -> None:
    assert without_user(url) == parts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("caf\xc3\xa9", "café"),
        ("caf\xe9", "caf%E9"),
        ("狐", "狐"),
    ],
)
def test_the_bytes_of_a_header_are_read_as_text(value: str, text: str) -> None:
    assert header_text(value) == text


def test_only_addresses_of_the_own_origin_are_own() -> None:
    assert own_url(BASE, "https://GATEWAY.example:443/x?y=1#z") == "https://gateway.example/x?y=1"
    for url in (
        "http://gateway.example/",
        "https://gateway.example:99999/",
        "https://u@gateway.example/",
        "x",
    ):
        assert own_url(BASE, url) is None
    assert own_page(BASE, "https://gateway.example/list", "//[::1") is None
    with pytest.raises(VaceInputError):
        check_base_url("https://u@gateway.example")
