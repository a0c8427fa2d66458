"""Ids of predictions in paths and file names."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.ids import id_in_file_name, id_in_path, is_id

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)


@pytest.mark.parametrize(
    "value",
    [None, 5, "", "a b", "a\n", "é", "x" * 201, ".", "..", "a/../b", "a\\..", "./a", "https://a/b"],
)
def test_blanks_controls_dots_and_addresses_are_no_ids(value: object) -> None:
    assert not is_id(value)


@given(VISIBLE.filter(is_id))
def test_any_other_visible_id_is_one_segment_of_a_path(identifier: str) -> None:
    segment = id_in_path(identifier)
    assert unquote(segment) == identifier
    assert not set(segment) & set("/?#\\ ")
    assert segment not in (".", "..")


@given(VISIBLE)
def test_a_file_name_has_safe_letters_only(identifier: str) -> None:
    name = id_in_file_name(identifier)
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def test_ids_with_other_letters_keep_apart_in_file_names() -> None:
    assert id_in_file_name("gm3q_o-rz") == "gm3q_o-rz"
    names = {id_in_file_name(identifier) for identifier in ("a=", "a.", "a:", "a_", "a/")}
    assert len(names) == 5
