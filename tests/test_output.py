"""Outputs of any form, and their public form in payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_vace.prediction import Prediction


def succeeded(output: Any) -> Prediction:
    return Prediction.from_json({"id": "abc", "status": "succeeded", "output": output})


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (None, []),
        ("https://a/b.mp4", ["https://a/b.mp4"]),
        ("HTTPS://a/b.mp4", ["HTTPS://a/b.mp4"]),
        (["https://a/1", None, "https://a/2"], ["https://a/1", "https://a/2"]),
        ({"video": "https://a/1", "more": {"mask": ["https://a/2"]}}, ["https://a/1", "https://a/2"]),
        ("data:video/mp4;base64,AAAA", ["data:video/mp4;base64,AAAA"]),
        ("done", []),
        (5, []),
    ],
)
def test_urls_are_found_in_an_output_of_any_form(output: object, urls: list[str]) -> None:
    assert succeeded(output).output_urls == urls


def test_deep_nesting_of_an_output_is_bounded() -> None:
    output: Any = "https://a/b"
    for _ in range(50):
        output = [output]
    prediction = succeeded(output)
    assert prediction.output_urls == []
    assert len(json.dumps(prediction.payload())) < 1000


def test_a_payload_never_contains_a_data_url() -> None:
    data = "data:video/mp4;base64,AAAA"
    assert succeeded(data).payload()["output"] is None
    assert succeeded(f"\n {data}").payload()["output"] is None
    assert succeeded(f" {data}").output_urls == [data]


NESTED: Any = "https://a/b"


for _ in range(9):
    NESTED = {"x": NESTED}


@pytest.mark.parametrize(
    "output",
    [
        [" data:video/mp4;base64,AAAA", "https://a/b"],
        {"a": "data:video/mp4;base64,AAAA", "b": 5},
        {"data:video/mp4;base64,AAAA": 5},
        NESTED,
        {"https://a/b?sig=SECRET1": 1, "https://a/b?sig=SECRET2": 2},
    ],
    ids=["list", "object", "key", "nested", "equal keys"],
)
def test_a_payload_contains_the_complete_output_or_none(output: Any) -> None:
    prediction = succeeded(output)
    assert prediction.payload()["output"] is None
    assert prediction.has_output
    assert not prediction.fits_payload


def test_an_output_is_shortened_if_a_url_lost_its_signature() -> None:
    assert not succeeded(["https://a/b?sig=1"]).is_shortened
    assert Prediction.from_json(succeeded(["https://a/b?sig=1", "https://a/c"]).payload()).is_shortened


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (" https://a/b.mp4\n", ["https://a/b.mp4"]),
        ("https://a/my clip.mp4", ["https://a/my clip.mp4"]),
        ('["https://a/1", "https://a/2"]', ["https://a/1", "https://a/2"]),
        ("\ufeff{'video': 'https://a/1'}", ["https://a/1"]),
        ('["https://a/1.mp4?signature=x"]', ["https://a/1.mp4?signature=x"]),
        ('{"video":"https://a/1.mp4?a=b#c"}', ["https://a/1.mp4?a=b#c"]),
        ("https://a/1.mp4,https://a/2.mp4\nhttps://a/3.mp4", [f"https://a/{n}.mp4" for n in (1, 2, 3)]),
        ("/files/a.mp4", ["/files/a.mp4"]),
        ("//host/files/my clip.mp4", ["//host/files/my clip.mp4"]),
        ("//host/files/a.mp4", ["//host/files/a.mp4"]),
        ("/files/my clip.mp4", ["/files/my clip.mp4"]),
        (["./1.mp4", "2.mp4"], ["./1.mp4", "2.mp4"]),
        (["https://a/1.mp4", "/files/2.mp4"], ["https://a/1.mp4", "/files/2.mp4"]),
        ({"url": "https://a/1.mp4", "name": "1.mp4", "path": "/out/1.mp4"}, ["https://a/1.mp4"]),
        ({"path": "/files/1.mp4", "name": "1.mp4"}, ["/files/1.mp4"]),
        ({"name": "1.mp4", "more": {"name": "2.wav"}}, ["1.mp4", "2.wav"]),
        ("data:video/mp4; codecs=avc1;base64 ,AA\nAA", ["data:video/mp4; codecs=avc1;base64 ,AA\nAA"]),
    ],
    ids=str,
)
def test_addresses_are_found_as_gateways_write_them(output: object, urls: list[str]) -> None:
    assert succeeded(output).output_urls == urls


@pytest.mark.parametrize(
    "output",
    [
        "/imagine a fox",
        "/help",
        "Data: a fox, in snow",
        "https://a.example is a site\nabout foxes",
        "The file is a.mp4",
        "// see a.mp4",
        ["See ", "a.mp4", " there"],
        ["/a/b.mp4", "and more"],
        "[1, 2",
        "{'a': 1}",
        0.5,
    ],
    ids=str,
)
def test_a_text_about_files_is_no_address(output: object) -> None:
    assert succeeded(output).output_urls == []
    assert succeeded(output).has_output


def test_a_list_of_data_urls_as_text_stays_out_of_payloads() -> None:
    prediction = succeeded('["data:video/mp4;base64,AAAA"]')
    assert prediction.output_urls == ["data:video/mp4;base64,AAAA"]
    assert prediction.payload()["output"] is None


@pytest.mark.parametrize(
    "text",
    [
        '"https://a/b.mp4"',
        "'https://a/b.mp4'",
        "<https://a/b.mp4>",
        "`https://a/b.mp4`",
        "[the video](https://a/b.mp4)",
        "![](https://a/b.mp4)",
        "\u200bhttps://a/b.mp4\u2060 ",
        json.dumps(json.dumps({"video": "https://a/b.mp4"})),
        "('https://a/b.mp4',)",
        '"[\\"https://a/b.mp4\\"]"',
    ],
)
def test_an_address_is_found_in_its_wrapping(text: str) -> None:
    assert succeeded(text).output_urls == ["https://a/b.mp4"]


@pytest.mark.parametrize("wrapped", ['"{}"', "[v]({})", "<{}>", '["{}"]'])
def test_a_wrapped_address_shows_its_lost_signature(wrapped: str) -> None:
    prediction = succeeded(wrapped.format("https://a/b.mp4?sig=secretsecret"))
    again = Prediction.from_json(prediction.payload())
    assert "secretsecret" not in json.dumps(prediction.payload())
    assert again.is_shortened


@pytest.mark.parametrize(
    "text", ['"fox.mp4"', '"A fox", he said', "(see https://a/b.mp4 or c)", "Watch https://a/b.mp4", "'tis"]
)
def test_prose_with_quotes_or_links_is_no_address(text: str) -> None:
    assert succeeded(text).output_urls == []


def test_a_relative_address_may_have_blanks_behind_its_folder() -> None:
    assert succeeded("files/a fox.mp4").output_urls == ["files/a fox.mp4"]
    assert succeeded("A fox.mp4").output_urls == []


def test_what_stands_beside_addresses_is_counted_and_kept() -> None:
    from airflow_vace.output import length_beside_urls, rest_of

    nested: Any = "deep"
    for _ in range(9):
        nested = [nested]
    output = {"a": "https://a/b?sig=secret", "b": [1, "fox"], "c": nested}
    assert rest_of(output) == {**output, "a": "https://a/b?…"}
    assert length_beside_urls({"a": "https://a/b", "b": [1, "fox"]}) == len('1"fox"')
