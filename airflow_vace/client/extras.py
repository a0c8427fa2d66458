"""Read values from a connection's extra, and raise an error that names the field and the remedy.

Each reader takes the extra and the name of a field. A field is unset if missing, null or empty: Airflow's
form stores an unset field as null. A connection given as a URI has text only, so readers also accept
numbers, booleans and lists written as text.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from airflow_vace.core.credentials import Headers, check_headers
from airflow_vace.exceptions import VaceInputError
from airflow_vace.plain import id_text, is_absent
from airflow_vace.redaction import excerpt

Extra = Mapping[str, Any]

EXTRAS = (
    *("backend", "api_prefix", "model", "version", "timeout", "max_output_mb", "prices", "lists", "headers"),
    *("verify", "cert", "proxies", "input_roots", "dry_run"),
)
# The similarity of `time_out` and `timeout`. Other programs may keep other names in the same extra.
_SIMILAR = 0.8


def unusable(name: str, value: object, wanted: str) -> VaceInputError:
    """Return the error for an unusable field.

    :param value: shown in the message; give "***" for a field with secrets
    :param wanted: an acceptable value in words
    """
    return VaceInputError(
        f"The connection's extra {name!r} is {excerpt(repr(value), 100)}; it must be {wanted}.",
        field=name,
        value=value,
        remedy=wanted,
    )


def misspelt_names(extra: Extra) -> list[str]:
    """Return a sentence for each name in the extra that is nearly the name of a field, and has no effect.

    :raises VaceInputError: for a name that is nearly `dry_run`, since each task would pay
    """
    found = []
    for name in extra:
        near = get_close_matches(str(name).lower(), EXTRAS, n=1, cutoff=_SIMILAR)
        if near and name not in EXTRAS:
            if near[0] == "dry_run":
                raise unusable(str(name), extra[name], "spelt 'dry_run'")
            shown = excerpt(repr(name), 60)
            found.append(f"The connection's extra {shown} has no effect; did you mean {near[0]!r}?")
    return found


def unusable_extra() -> VaceInputError:
    """Return the error for an extra that is no JSON object; it is not shown, since it may hold a key."""
    remedy = 'give a JSON object, such as {"backend": "replicate"}, or leave the field empty'
    return VaceInputError(
        f"The connection's field Extra is no JSON object; {remedy}. Nothing was sent.",
        field="extra",
        value="***",
        remedy=remedy,
    )


def read_text(extra: Extra, name: str) -> str | None:
    """Return a text without surrounding white space, or None if unset; a number becomes text."""
    value = id_text(extra.get(name))
    if is_absent(value):
        return None
    if not isinstance(value, str):
        raise unusable(name, value, "text")
    return value.strip()


def read_flag(extra: Extra, name: str) -> bool | None:
    """Return a boolean, or None if unset."""
    value = extra.get(name)
    if value in (None, ""):
        return None
    # `bool("false")` would be True, so compare words.
    word = str(value).strip().lower()
    if word not in ("true", "false"):
        raise unusable(name, value, "true or false")
    return word == "true"


def read_positive(extra: Extra, name: str, *, default: float, wanted: str, below: float = math.inf) -> float:
    """Return a number above 0 and less than `below`.

    :param default: for an unset field
    :param wanted: an acceptable value in words, with the unit
    """
    value = extra.get(name)
    if value in (None, ""):
        return default
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    # NaN fails each comparison, so this condition refuses NaN too. A boolean counts as 0 or 1 for float().
    if isinstance(value, bool) or not 0 < number < below:
        raise unusable(name, value, wanted)
    return number


def read_verify(extra: Extra, name: str) -> bool | str:
    """Return True or False, or the path of a CA bundle; True if unset."""
    value = extra.get(name)
    if value in (None, ""):
        return True
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        meant = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
        # A missing bundle would fail each request later, and resemble an invalid certificate of the server.
        if isinstance(meant, bool) or Path(meant).exists():
            return meant
    raise unusable(name, value, "true, false or the path of an existing CA bundle")


def read_cert(extra: Extra, name: str) -> str | tuple[str, str] | None:
    """Return the path of a client certificate, or the paths of certificate and key; None if unset."""
    value = extra.get(name)
    if value in (None, "", []):
        return None
    paths = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if (
        isinstance(paths, list | tuple)
        and len(paths) in (1, 2)
        # Both clients report a missing file in their own way, and aiohttp only with the first request.
        and all(isinstance(path, str) and Path(path).is_file() for path in paths)
    ):
        return paths[0] if len(paths) == 1 else (paths[0], paths[1])
    raise unusable(
        name, value, "the path of an existing file, or two with a comma between: certificate and key"
    )


def read_directories(extra: Extra, name: str) -> tuple[str, ...]:
    """Return absolute directories; empty if unset."""
    value = from_json(extra.get(name))
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    found = value or []
    # A relative directory would depend on the working directory of each worker.
    if isinstance(found, list) and all(isinstance(each, str) and Path(each).is_absolute() for each in found):
        return tuple(found)
    raise unusable(name, value, "a list of absolute directories, or text with commas between them")


def read_headers(extra: Extra, name: str) -> Headers:
    """Return further headers, given as an object or as JSON text, as a form sends it; empty if unset."""
    value = from_json(extra.get(name))
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    return check_headers(value)


def from_json(value: Any) -> Any:
    """Return the value of a JSON text; anything else unchanged."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value
