"""Inputs of a create: plain JSON for any model, and checks of prunaai/vace-14b's before a paid request."""

from __future__ import annotations

__all__ = ("DEFAULT_MODEL", "FIELDS", "SPEED_MODES", "InputField", "VaceInput", "normalize_input")

import ast
import json
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Required, TypedDict

from airflow_vace.exceptions import VaceInputError
from airflow_vace.input_fields import DEFAULT_MODEL, FIELDS, SPEED_MODES, InputField
from airflow_vace.input_files import is_fetchable, is_path, paths_in
from airflow_vace.other_inputs import check_texts, check_without_paths
from airflow_vace.plain import NotPlainError, is_absent, is_record, plain
from airflow_vace.redaction import excerpt


class VaceInput(TypedDict, total=False):
    """Inputs of prunaai/vace-14b, for editors and type checkers; `FIELDS` describes each."""

    prompt: Required[str]
    src_video: str
    src_mask: str
    src_ref_images: list[str]
    size: str
    frame_num: int
    speed_mode: str
    sample_steps: int
    sample_solver: str
    sample_shift: int
    sample_guide_scale: float
    seed: int


# Authors write 1280x720, with a letter or a multiplication sign; the model accepts 1280*720 only.
_SIZE = re.compile(r"\s*(\d+)\s*[*xX\u00d7]\s*(\d+)\s*")
_MAX_REFERENCE_IMAGES = 3
# https://github.com/Wan-Video/Wan2.1/blob/main/wan/configs/shared_config.py: `text_len`.
_MAX_PROMPT_TOKENS = 512
# English text of this length has more tokens than that.
_LONG_PROMPT = 4000


def normalize_input(
    input: object,  # noqa: A002 - the API's own word
    *,
    model: str = DEFAULT_MODEL,
    paths: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Return the input in the types of the model, and warnings about doubtful values.

    Rendered templates become typed values, `1280x720` becomes `1280*720`, a short speed name the full name,
    and a single reference image a list. None, and the texts "None", "null" and "", mean an absent input. A
    number as prompt becomes text. The result always contains `size`.

    Inputs of other models only become JSON, without the inputs that are None; a text stays as it is.

    :param input: see :func:`read_input`
    :param model: `owner/name`
    :param paths: whether a file may be a path such as `s3://bucket/clip.mp4`, for a later upload
    :raises VaceInputError: for an invalid value, with field, value and remedy
    """
    given = read_input(input)
    if model.strip().lower() != DEFAULT_MODEL:
        if "prompt" in given:
            given["prompt"] = _read_prompt_of_any_model(given["prompt"])
        others = {name: value for name, value in given.items() if value is not None}
        return others, [] if paths else check_normalized(others, model=model)
    _refuse_unknown_names(given)
    values: dict[str, Any] = {"prompt": _read_prompt(given.get("prompt"))}
    for field in FIELDS.values():
        value = given.get(field.name)
        if field.name != "prompt" and not is_absent(value):
            value = _READERS[field.kind](field, value)
            if value != []:
                values[field.name] = value
    # Versions of the model have different defaults, so an explicit size makes results reproducible.
    values.setdefault("size", FIELDS["size"].default)
    _refuse_lone_mask(values)
    check_texts({name: value for name, value in values.items() if FIELDS[name].kind == "str"})
    return values, _all_doubts(values) if paths else check_normalized(values, model=model)


def check_normalized(values: Mapping[str, Any], *, model: str) -> list[str]:
    """Return warnings about doubtful values of a normalised input.

    :raises VaceInputError: for a path, which must not leave as it is
    """
    if model.strip().lower() != DEFAULT_MODEL:
        check_without_paths(values)
        return []
    _refuse_paths(values)
    return _all_doubts(values)


def read_input(input: object) -> dict[str, Any]:  # noqa: A002 - the API's own word
    """Return the inputs of any model as plain JSON.

    :param input: mapping, dataclass or Pydantic model, or the JSON or Python text of a mapping
    :raises VaceInputError: for another object, and for a value without a form in JSON
    """
    given = literal(input) if isinstance(input, str) else input
    if is_record(given):
        given = _plain("input", given)
    if not isinstance(given, Mapping):
        raise _no_dict(input, given)
    return {str(name): _plain(str(name), value) for name, value in given.items()}


def _no_dict(shown: object, given: object) -> VaceInputError:
    remedy = "give a dict, such as input={'prompt': 'a red fox runs through snow'}"
    if isinstance(given, list | tuple):
        remedy += "; for one video per item use .expand(input=...) or VaceBatchOperator"
    elif is_absent(given):
        remedy += f"; {_WHERE_FROM}"
    return VaceInputError(
        f"The parameter input is {_shown(shown)}, which is no dict; {remedy}. Nothing was sent, nothing is"
        " billed.",
        field="input",
        value=shown,
        remedy=remedy,
    )


def _plain(name: str, value: object) -> Any:
    try:
        return plain(value)
    except NotPlainError as error:
        remedy = "give text, a number, True or False, a URL or an absolute path, a list or a dict"
        raise _error(f"{name}{error.where}", value, str(error), remedy) from None


def literal(text: str) -> Any:
    """Return the value of JSON or Python text (a rendered template), or the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def _error(name: str, value: object, problem: str, remedy: str) -> VaceInputError:
    return VaceInputError(
        f"Input {name!r} {problem}: got {_shown(value)}; {remedy}. Nothing was sent, nothing is billed.",
        field=name,
        value=value,
        remedy=remedy,
    )


def _shown(value: object) -> str:
    return excerpt(repr(value), 120)


def _wrong_type(field: InputField, value: object, wanted: str) -> VaceInputError:
    default = (
        "" if field.default is None else f", or leave {field.name} out for the default {field.default!r}"
    )
    usable = f"one of {', '.join(map(repr, field.values))}" if field.values else wanted
    return _error(field.name, value, f"must be {wanted}", f"give {usable}{default}")


def api_word(name: str, text: str) -> str:
    """Return the API's form of a text input of VACE, such as `1280*720` for `1280x720`.

    :param name: name of the input
    """
    return _read_str(FIELDS[name], text)


def _read_str(field: InputField, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(field, value, "text")
    text = value.strip()
    if field.name == "size" and (match := _SIZE.fullmatch(text)):
        return f"{match[1]}*{match[2]}"
    if field.name == "speed_mode":
        # The full names contain emoji and differ in case between documents.
        word = text.lower().replace("_", " ").replace("-", " ").removesuffix(" juiced")
        if word in SPEED_MODES:
            return SPEED_MODES[word]
    return next((known for known in field.values if known.lower() == text.lower()), text)


_WHERE_FROM = "if a template renders it, check the task_ids (and map_indexes) of xcom_pull"
_ABSENT_PROMPT = f"describe the content of the video, such as 'a red fox runs through snow'; {_WHERE_FROM}"


def _read_prompt(value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _error("prompt", value, "is missing", _ABSENT_PROMPT)
    return str(_read_prompt_of_any_model(value))


def _read_prompt_of_any_model(value: object) -> object:
    if is_absent(value) and value != "":
        # Jinja renders a missing XCom as "None", and the model would make a paid video of this word.
        problem = "is the text that a template renders for a missing value" if value else "is missing"
        raise _error("prompt", value, problem, _ABSENT_PROMPT)
    # Native rendering (`render_template_as_native_obj`) makes a number of the prompt `1984`.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        remedy = "give one text, such as 'a red fox runs through snow'"
        if isinstance(value, list | tuple):
            remedy = "give one text; for one video per prompt use .expand(input=...) or VaceBatchOperator"
        raise _error("prompt", value, "must be text", remedy)
    return value


def _read_number(field: InputField, value: object) -> float:
    number = literal(value) if isinstance(value, str) else value
    # bool is a subclass of int, but True as a number of frames is a mistake.
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _wrong_type(field, value, "a number")
    if isinstance(number, float) and not math.isfinite(number):
        raise _wrong_type(field, value, "a number")
    return int(number) if number == int(number) else number


def _read_int(field: InputField, value: object) -> int:
    try:
        number = _read_number(field, value)
    except VaceInputError:
        raise _wrong_type(field, value, "an integer") from None
    if not isinstance(number, int):
        raise _wrong_type(field, value, "an integer")
    return number


_REACHABLE = "an http(s) URL that it can reach, or a data: URL for a small file"


def _read_url(field: InputField, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(field, value, "a URL")
    url = value.strip()
    # A bare local path would otherwise be an invalid URL.
    if url.startswith("/"):
        url = f"file://{PurePath(url)}"
    if is_path(url) or is_fetchable(url):
        return url
    if is_fetchable(re.sub(r"\s", "%20", url)):
        raise _error(field.name, value, "is a URL with a blank", "write %20 in place of each blank")
    raise _error(
        field.name,
        value,
        "is not a URL that the back-end can fetch",
        f"give {_REACHABLE}, or the path of a file, such as s3://bucket/clip.mp4 or /data/clip.mp4",
    )


def _read_urls(field: InputField, value: object) -> list[str]:
    if isinstance(value, str):
        value = literal(value) if value.lstrip().startswith(("[", "(", "{")) else [value]
    if not isinstance(value, list | tuple | set):
        raise _wrong_type(field, value, "a list of URLs")
    return [_read_url(field, item) for item in plain(value) if not is_absent(item)]


_READERS = {
    "str": _read_str,
    "int": _read_int,
    "number": _read_number,
    "url": _read_url,
    "urls": _read_urls,
}


def _refuse_unknown_names(given: Mapping[Any, Any]) -> None:
    for name in given:
        if name not in FIELDS:
            near = get_close_matches(str(name), FIELDS, n=1)
            remedy = f"did you mean {near[0]!r}? " if near else ""
            known = f"{DEFAULT_MODEL} has the inputs {', '.join(FIELDS)}"
            raise _error(str(name), given[name], "is not an input of the model", remedy + known)


def _refuse_lone_mask(values: Mapping[str, Any]) -> None:
    # The model ignores the mask without an error, so the result would be a paid video of no use.
    if "src_mask" in values and "src_video" not in values:
        raise _error(
            "src_mask",
            values["src_mask"],
            "would be ignored without src_video",
            "give src_video too, or leave src_mask out",
        )


def _refuse_paths(values: Mapping[str, Any]) -> None:
    for name, path in paths_in(values):
        raise _error(
            name,
            path,
            "is a path, which VacePredictionOperator brings to the back-end and a bare hook does not",
            f"give {_REACHABLE}",
        )


def _all_doubts(values: Mapping[str, Any]) -> list[str]:
    return [doubt for name, value in values.items() for doubt in _doubts(FIELDS[name], value)]


def _doubts(field: InputField, value: Any) -> list[str]:
    """Return warnings about a well-formed value outside of the reported values."""
    # Reports may be outdated, and a refused input costs nothing, so the server decides.
    doubts = []
    if field.name == "prompt" and len(value) > _LONG_PROMPT:
        doubts.append(
            f"prompt has {len(value)} characters, and the model reads {_MAX_PROMPT_TOKENS} tokens, about the"
            " first 2000 characters: shorten it"
        )
    if field.values and value not in field.values:
        doubts.append(f"{field.name}={_shown(value)} is none of {', '.join(map(repr, field.values))}")
    if field.low is not None and value < field.low:
        doubts.append(f"{field.name}={value} is below the reported minimum of {field.low:g}")
    if field.high is not None and value > field.high:
        doubts.append(f"{field.name}={value} is above the reported maximum of {field.high:g}")
    if field.name == "frame_num" and value % 4 != 1:
        doubts.append(f"frame_num={value} is not of the form 4n+1 (77, 81, 85, ...)")
    if field.name == "src_ref_images" and len(value) > _MAX_REFERENCE_IMAGES:
        doubts.append(
            f"src_ref_images has {len(value)} images; one to {_MAX_REFERENCE_IMAGES} are known to work"
        )
    return doubts
