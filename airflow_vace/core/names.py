"""Names of models and versions: their checks, and references such as `owner/name:version`."""

from __future__ import annotations

import re

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.redaction import excerpt

# Model and version become parts of a path or header, so slashes, blanks and dots in pairs are refused.
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][\w.:/-]*", re.ASCII)
# `owner/name:version`, the pages of the website, and the names of images: `r8.im/owner/name@sha256:version`.
_PAGE = r"(?:(?:https?://)?(?:www\.)?(?:replicate\.com|r8\.im)/)"
_REFERENCE = re.compile(
    rf"{_PAGE}?([^/:@\s]+/[^/:@\s]+)(?::|@(?:sha256:)?|/versions/)([^\s/]+)/?", re.IGNORECASE
)
_MODEL_PAGE = re.compile(rf"{_PAGE}([^/:@?#\s]+/[^/:@?#\s]+)(?:/versions)?/?", re.IGNORECASE)


def split_reference(model: str | None, version: str | None) -> tuple[str | None, str | None]:
    """Return model and version, where one of both may be `owner/name:version` or a page of the model.

    :raises VaceInputError: if two models or two versions are named
    """
    models: list[str | None] = []
    versions: list[str | None] = []
    for given, places in ((model, models), (version, versions)):
        text = given.strip() if isinstance(given, str) else ""
        if match := _REFERENCE.fullmatch(text):
            models.append(match[1])
            versions.append(match[2])
        elif match := _MODEL_PAGE.fullmatch(text):
            models.append(match[1])
        else:
            places.append(given)
    return _only("model", models), _only("version", versions)


def _only(name: str, given: list[str | None]) -> str | None:
    """Return the single value among the given ones, perhaps named twice; None without any."""
    named = [value for value in given if value]
    if len({str(value).lower() for value in named}) > 1:
        shown = " and ".join(excerpt(repr(value), 100) for value in named)
        raise VaceInputError(
            f"Two values of {name!r} are named: {shown}. Name one. Nothing was sent, nothing is billed.",
            field=name,
            value=named,
            remedy=f"name one {name}",
        )
    return named[0] if named else next((value for value in given if value is not None), None)


def is_version(text: str) -> bool:
    """Return True if a text can be the id of a version."""
    return _VERSION.fullmatch(text) is not None


def check_model(model: str, version: str | None) -> None:
    """Check the parts of a create that become parts of its path."""
    if not _MODEL.fullmatch(model) or ".." in model:
        raise VaceInputError(
            f"model is {excerpt(repr(model))}; give it as 'owner/name', such as {DEFAULT_MODEL!r}, in the"
            " task or in the connection's extra. Nothing was sent, nothing is billed.",
            field="model",
            value=model,
            remedy="owner/name",
        )
    if version and not is_version(version):
        raise VaceInputError(
            f"version is {excerpt(repr(version))}; give the id of a version of the model, from its page, or"
            " leave version out. Nothing was sent, nothing is billed.",
            field="version",
            value=version,
            remedy="the id of a version, or nothing",
        )
