"""The supported kinds of servers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Addresses and conventions of one kind of server.

    All paths are below `prefix`. None as a path stands for an unsupported call.

    :param name: value of the connection's extra `backend`
    :param prefix: default path before all others
    :param key_header: name of the header with the API key
    :param key_form: value of this header, with `{key}`
    :param model_header: header that names the model of a create, None if the path names the model
    :param create: path of a create, with `{model}`
    :param create_version: path of a create with a version, None for the same path as `create`
    :param get: path of a prediction, with `{id}`
    :param cancel: path of a cancel, with `{id}`
    :param list: path of the list of predictions
    :param files: path of an upload
    :param model: path of a model, with `{model}`
    :param needs_version: a create needs a version, except for official models
    :param limit: requests other than creates per second of one account, None if unknown
    :param create_limit: creates per second of one account, None if unknown
    :param response_format: members of a response, as Replicate or as Pruna documents them
    """

    name: str
    prefix: str
    key_header: str = "Authorization"
    key_form: str = "Bearer {key}"
    model_header: str | None = None
    create: str = "/models/{model}/predictions"
    create_version: str | None = None
    get: str = "/predictions/{id}"
    cancel: str | None = "/predictions/{id}/cancel"
    list: str | None = None
    files: str | None = None
    model: str = "/models/{model}"
    needs_version: bool = False
    limit: float | None = None
    create_limit: float | None = None
    response_format: Literal["replicate", "pruna"] = "replicate"


# Gateways place Replicate's API below this path, and document neither a list nor uploads.
GATEWAY = Backend(name="gateway", prefix="/replicate/v1")
# https://replicate.com/docs/reference/http; 600 creates and 3,000 other requests a minute:
# https://replicate.com/docs/topics/predictions/rate-limits
REPLICATE = Backend(
    name="replicate",
    prefix="/v1",
    create_version="/predictions",
    list="/predictions",
    files="/files",
    needs_version=True,
    limit=50.0,
    create_limit=10.0,
)
# https://docs.api.pruna.ai
PRUNA = Backend(
    name="pruna",
    prefix="/v1",
    key_header="apikey",
    key_form="{key}",
    model_header="Model",
    create="/predictions",
    get="/predictions/status/{id}",
    cancel=None,
    files="/files",
    response_format="pruna",
)
BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in (GATEWAY, REPLICATE, PRUNA)}
_BACKEND_BY_HOST = {"api.replicate.com": REPLICATE, "api.pruna.ai": PRUNA}


def backend_of(host: str) -> Backend:
    """Return the back-end of a vendor's host, and the gateway for all other hosts."""
    return _BACKEND_BY_HOST.get(host, GATEWAY)
