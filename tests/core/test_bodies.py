"""Bodies of responses as storable JSON."""

from __future__ import annotations

import pytest

from airflow_vace.core.bodies import inner_object_of, is_truncated, json_object_of, json_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1e999, "b": -Infinity, "c": 1.5}', {"a": None, "b": None, "c": 1.5}),
        ('["a\\u0000b", 5]', ["ab", 5]),
        ('{"x\\ud800": ["\\uD83C\\uDF4A"]}', {"x?": ["🍊"]}),
        ('{"text": "' + "[" * 200 + '"}', {"text": "[" * 200}),
    ],
)
def test_json_becomes_values_that_a_database_can_store(text: str, value: object) -> None:
    assert json_of(text) == value


@pytest.mark.parametrize("depth", [101, 100_000])
def test_json_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        json_of("[" * depth + "]" * depth)


@pytest.mark.parametrize("text", ["[]", "5", "null", "{"])
def test_other_json_is_not_an_object(text: str) -> None:
    assert json_object_of(text) is None


@pytest.mark.parametrize(
    ("text", "truncated"),
    [("", True), ('{"id": "a', True), ("a\N{REPLACEMENT CHARACTER}", True), ("{}", False), ("no", False)],
)
def test_a_body_is_truncated_if_it_may_be_the_rest_of_json(text: str, *, truncated: bool) -> None:
    assert is_truncated(text) is truncated


@pytest.mark.parametrize(
    "text",
    [
        'callback({"id": "abc"});',
        ')]}\',\n{"id": "abc"}',
        'data: {"id": "abc"}\n\n',
        '<br />\n<b>Warning</b>: Undefined variable in x.php\n{"id": "abc"}',
        '{"id": "abc"}\n<!-- 12 ms -->',
    ],
)
def test_a_single_object_is_read_out_of_other_text(text: str) -> None:
    assert inner_object_of(text) == {"id": "abc"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no object",
        "{broken",
        '{"id": "abc"}\n{"id": "def"}',
        '<!DOCTYPE html><script>{"id": "abc"}</script>',
        "x" * 2000 + '{"id": "abc"}',
        '{"a": ' * 50_000,
    ],
    ids=lambda text: text[:20],
)
def test_other_text_contains_no_object(text: str) -> None:
    assert inner_object_of(text) is None
