"""Inputs of the model: normal form, refusals and warnings."""

from __future__ import annotations

from collections import UserDict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import (
    DEFAULT_MODEL,
    FIELDS,
    SPEED_MODES,
    check_normalized,
    literal,
    normalize_input,
)
from support.values import Array, Clip, Size

URL = "https://example.com/a.mp4"


def normalized(**given: Any) -> dict[str, Any]:
    return normalize_input({"prompt": "a fox", **given})[0]


def warnings_for(**given: Any) -> list[str]:
    return normalize_input({"prompt": "a fox", **given})[1]


def refused(given: Any) -> VaceInputError:
    with pytest.raises(VaceInputError) as caught:
        normalize_input(given)
    assert "Nothing was sent, nothing is billed" in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_the_twelve_inputs_have_the_defaults_of_the_api_page() -> None:
    assert {name: (f.kind, f.default) for name, f in FIELDS.items()} == {
        "prompt": ("str", None),
        "src_video": ("url", None),
        "src_mask": ("url", None),
        "src_ref_images": ("urls", None),
        "size": ("str", "832*480"),
        "frame_num": ("int", 81),
        "speed_mode": ("str", "Lightly Juiced 🍊 (more consistent)"),
        "sample_steps": ("int", 50),
        "sample_solver": ("str", "unipc"),
        "sample_shift": ("int", 16),
        "sample_guide_scale": ("number", 5),
        "seed": ("int", -1),
    }


def test_size_is_always_sent_and_nothing_else_is_added() -> None:
    assert normalized() == {"prompt": "a fox", "size": "832*480"}


def test_a_prompt_is_sent_verbatim() -> None:
    assert normalize_input({"prompt": " 81\n"})[0]["prompt"] == " 81\n"


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("frame_num", "81", 81),
        ("frame_num", " 81 ", 81),
        ("frame_num", 81.0, 81),
        ("seed", 0, 0),
        ("seed", "0", 0),
        ("seed", "-1", -1),
        ("sample_guide_scale", 0, 0),
        ("sample_guide_scale", "0", 0),
        ("sample_guide_scale", "5.5", 5.5),
        ("size", "1280x720", "1280*720"),
        ("size", "1280 X 720", "1280*720"),
        ("size", "1280\u00d7720", "1280*720"),
        ("speed_mode", "lightly", SPEED_MODES["lightly"]),
        ("speed_mode", "Juiced", SPEED_MODES["juiced"]),
        ("speed_mode", "extra_juiced", SPEED_MODES["extra"]),
        ("speed_mode", SPEED_MODES["extra"].upper(), SPEED_MODES["extra"]),
        ("sample_solver", "UniPC", "unipc"),
        ("src_ref_images", URL, [URL]),
        ("src_ref_images", (URL, URL), [URL, URL]),
        ("src_ref_images", f'["{URL}"]', [URL]),
        ("src_ref_images", f"['{URL}']", [URL]),
        ("src_ref_images", deque([URL]), [URL]),
        ("src_ref_images", {URL, f"{URL}?b"}, [URL, f"{URL}?b"]),
        ("src_ref_images", (url for url in [URL]), [URL]),
        ("src_ref_images", Array([URL]), [URL]),
        ("seed", 10**400, 10**400),
        ("seed", Decimal(7), 7),
        ("seed", Array(7), 7),
        ("seed", "1e3", 1000),
        ("frame_num", Decimal("81.0"), 81),
        ("frame_num", Fraction(162, 2), 81),
        ("sample_guide_scale", Decimal("5.5"), 5.5),
        ("sample_guide_scale", Array(5.5), 5.5),
        ("size", Size.WIDE, "1280*720"),
        ("prompt", 1984, "1984"),
        ("prompt", Array(1984), "1984"),
        ("prompt", 19.84, "19.84"),
        ("src_video", f" {URL} ", URL),
        ("src_video", "data:video/mp4;base64,AAAA", "data:video/mp4;base64,AAAA"),
    ],
)
def test_rendered_text_becomes_a_value_of_the_models_type(name: str, given: object, wanted: object) -> None:
    value = normalized(**{name: given})[name]
    assert value == wanted
    assert type(value) is type(wanted)


ABSENT = pytest.mark.parametrize("value", [None, "", "  ", "None", "null", " none\n"])


@ABSENT
@pytest.mark.parametrize("name", [name for name in FIELDS if name != "prompt"])
def test_a_missing_param_means_an_absent_input(name: str, value: object) -> None:
    assert normalized(**{name: value}) == {"prompt": "a fox", "size": "832*480"}


@pytest.mark.parametrize("value", [[], [None], ["None", ""], "[None]", '["", null]', (), set()])
def test_a_list_without_an_image_means_an_absent_input(value: object) -> None:
    assert "src_ref_images" not in normalized(src_ref_images=value)


def test_an_absent_image_in_a_list_is_left_out() -> None:
    assert normalized(src_ref_images=[URL, None, "None", "", URL])["src_ref_images"] == [URL, URL]
    assert normalized(src_ref_images=f"['{URL}', None]")["src_ref_images"] == [URL]


def test_an_input_rendered_as_text_is_read() -> None:
    assert normalize_input('{"prompt": "a fox"}')[0]["prompt"] == "a fox"
    assert normalize_input("{'prompt': 'a fox'}")[0]["prompt"] == "a fox"
    assert normalize_input('{"prompt": "a fox", "seed": "None"}')[0] == normalized()


@pytest.mark.parametrize(
    "value", [MappingProxyType({"prompt": "a fox"}), UserDict(prompt="a fox"), Clip("a fox")], ids=str
)
def test_an_input_may_be_any_mapping_or_a_dataclass(value: object) -> None:
    assert normalize_input(value)[0] == normalized()
    assert normalize_input(value, model="somebody/else")[0] == {"prompt": "a fox"}


@pytest.mark.parametrize("given", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": "  \n"}])
def test_an_empty_prompt_is_refused(given: dict[str, Any]) -> None:
    assert refused(given).field == "prompt"


@ABSENT
@pytest.mark.parametrize("model", [DEFAULT_MODEL, "somebody/else"])
def test_a_prompt_that_a_template_rendered_to_nothing_is_refused(value: Any, model: str) -> None:
    if model != DEFAULT_MODEL and value == "":
        pytest.skip("another model may accept an empty prompt")
    more = {} if model == DEFAULT_MODEL else {"image": URL}
    with pytest.raises(VaceInputError, match="Nothing was sent") as caught:
        normalize_input({"prompt": value, **more}, model=model)
    assert "map_indexes" in caught.value.remedy


def test_a_mask_without_a_video_is_refused_since_it_would_be_ignored() -> None:
    error = refused({"prompt": "x", "src_mask": URL})
    assert (error.field, error.value) == ("src_mask", URL)
    assert normalized(src_mask=URL, src_video=URL)["src_mask"] == URL


def test_a_typo_names_the_nearest_input() -> None:
    error = refused({"promt": "x"})
    assert error.field == "promt"
    assert "did you mean 'prompt'?" in str(error)


def test_an_unknown_name_lists_the_known_ones() -> None:
    error = refused({"prompt": "x", "zzz": 1})
    assert "did you mean" not in str(error)
    assert all(name in error.remedy for name in FIELDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", True),
        ("prompt", ["a fox", "a bear"]),
        ("prompt", {"text": "a fox"}),
        ("prompt", float("nan")),
        ("frame_num", "many"),
        ("frame_num", 81.5),
        ("frame_num", True),
        ("frame_num", Array(True)),
        ("frame_num", Decimal("NaN")),
        ("frame_num", Decimal("1e999999999")),
        ("seed", float("nan")),
        ("seed", object()),
        ("src_video", b"film"),
        ("frame_num", [81]),
        ("frame_num", "True"),
        ("sample_guide_scale", "inf"),
        ("sample_guide_scale", "1e999"),
        ("sample_guide_scale", float("nan")),
        ("sample_guide_scale", False),
        ("size", 832),
        ("speed_mode", 1),
        ("seed", "seven"),
        ("src_video", 5),
        ("src_video", "/home/me/a.mp4"),
        ("src_video", "file:///etc/passwd"),
        ("src_video", "s3://bucket/a.mp4"),
        ("src_video", "https://"),
        ("src_video", "https://[::1"),
        ("src_video", "https://example.com/a b.mp4"),
        ("src_video", "data:"),
        ("src_video", "data:video/mp4;base64,"),
        ("src_ref_images", {"a": URL}),
        ("src_ref_images", [URL, "a.png"]),
        ("src_ref_images", "a.png"),
    ],
)
def test_an_invalid_value_is_refused_with_its_name(name: str, value: object) -> None:
    error = refused({"prompt": "x", name: value})
    assert error.field == name
    assert f"'{name}'" in str(error)


@pytest.mark.parametrize("given", [None, 5, "a fox", ["a fox"], "[1]"])
def test_an_input_other_than_an_object_is_refused(given: object) -> None:
    assert refused(given).field == "input"


def test_a_message_shows_neither_a_signature_nor_a_file() -> None:
    signed = "ftp://example.com/a.mp4"
    error = refused({"prompt": "x", "src_ref_images": {"u": f"{URL}?X-Amz-Signature=5ecret", "v": signed}})
    assert "5ecret" not in str(error)
    error = refused({"prompt": "x", "size": 1, "src_video": "data:video/mp4;base64," + "A" * 10_000})
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sample_steps": 0}, "below the reported minimum of 1"),
        ({"sample_steps": 101}, "above the reported maximum of 100"),
        ({"sample_guide_scale": 20.5}, "above the reported maximum of 20"),
        ({"frame_num": 80}, "4n+1"),
        ({"frame_num": -3}, "below"),
        ({"src_ref_images": [URL] * 4}, "has 4 images"),
        ({"speed_mode": "ludicrous"}, "'ludicrous' is none of"),
        ({"size": "640x480"}, "'640*480' is none of"),
        ({"sample_solver": "euler"}, "'euler' is none of"),
    ],
)
def test_a_doubtful_value_is_sent_with_a_warning(given: dict[str, Any], said: str) -> None:
    (warning,) = warnings_for(**given)
    assert said in warning


def test_the_reported_bounds_themselves_do_not_warn() -> None:
    assert not warnings_for(sample_steps=1, sample_guide_scale=20, frame_num=81, src_ref_images=[URL] * 3)
    assert not warnings_for(sample_steps=100, sample_guide_scale=0, size="1280x720", speed_mode="extra")


def test_the_input_of_another_model_passes_unchecked() -> None:
    odd = {"image": 5, "frame_num": "many", "style": "None", "negative_prompt": "", "prompt": ""}
    assert normalize_input(odd, model="somebody/else") == (odd, [])
    with pytest.raises(VaceInputError):
        normalize_input("no object", model="somebody/else")


def test_the_case_of_the_models_name_is_irrelevant() -> None:
    with pytest.raises(VaceInputError):
        normalize_input({"promt": "x"}, model=f" {DEFAULT_MODEL.upper()}")


@given(st.dictionaries(st.sampled_from(list(FIELDS)), st.none() | st.text() | st.integers() | st.floats()))
def test_any_input_is_refused_or_normalised_once_for_all(
    given: dict[str, Any],
) -> None:
    try:
        values, _ = normalize_input(given)
    except VaceInputError as error:
        assert error.field in {*FIELDS, "input"}  # noqa: PT017 - an error is one of two good ends
        return
    assert normalize_input(values)[0] == values


@given(st.text())
def test_any_text_is_read_as_a_literal_or_stays_text(text: str) -> None:
    literal(text)
    assert literal("[1, 2") == "[1, 2"


def test_a_path_object_becomes_the_url_of_a_file(tmp_path: Path) -> None:
    image = tmp_path / "a b.png"
    given = {"prompt": "x", "src_video": Path("/films/a.mp4"), "src_ref_images": image}
    values, _ = normalize_input(given, paths=True)
    assert values["src_video"] == "file:///films/a.mp4"
    assert values["src_ref_images"] == [f"file://{image}"]
    with pytest.raises(VaceInputError, match="is a path, which VacePredictionOperator brings"):
        normalize_input(given)
    with pytest.raises(VaceInputError, match="is not a URL"):
        normalize_input({"prompt": "x", "src_video": Path("a.mp4")}, paths=True)


def test_a_normalised_input_of_any_model_contains_no_path() -> None:
    assert check_normalized({"text": "/imagine a fox", "frames": 1e9}, model="owner/speech") == []
    with pytest.raises(VaceInputError, match="is a path"):
        check_normalized({"text": "s3://bucket/a.txt"}, model="owner/speech")
    with pytest.raises(VaceInputError, match="is a path"):
        check_normalized({"prompt": "a fox", "src_video": "s3://bucket/a.mp4"}, model=DEFAULT_MODEL)
