"""Models of the emulated vendor: `GET /v1/models/{owner}/{name}`, and creates that Replicate refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_vace.emulator.world import iso
from airflow_vace.inputs import DEFAULT_MODEL, FIELDS

if TYPE_CHECKING:
    from airflow_vace.inputs import InputField

# Published on https://replicate.com/prunaai/vace-14b/versions.
FIRST_VERSION = "51299232dc3d0946d5f5ed74935d85243e172698f747d291460db1e6ef3669fb"

_JSON_TYPES = {"str": "string", "url": "string", "int": "integer", "number": "number", "urls": "array"}


@dataclass(kw_only=True)
class Model:
    """A model at the emulated vendor.

    :param versions: ids, the latest last
    :param is_official: accepts creates without a version; a community model needs a version
    """

    owner: str
    name: str
    versions: list[str] = field(default_factory=list)
    is_official: bool = False


class Models:
    """All models of an emulator; `known` maps `owner/name` to a model."""

    def __init__(self) -> None:
        owner, _, name = DEFAULT_MODEL.partition("/")
        self.known = {DEFAULT_MODEL: Model(owner=owner, name=name, versions=[FIRST_VERSION])}

    def publish(self, version: str, model: str = DEFAULT_MODEL) -> None:
        """Publish a version, which becomes the latest; a version of another model moves to this model.

        :param version: id of 64 hex digits
        :param model: `owner/name`; an unknown model becomes a community model
        """
        owner, _, name = model.partition("/")
        for other in self.known.values():
            other.versions = [known for known in other.versions if known != version]
        self.known.setdefault(model, Model(owner=owner, name=name)).versions.append(version)

    def add_routes(self, router: web.UrlDispatcher, prefix: str) -> None:
        """Register the routes below a prefix."""
        router.add_get(f"{prefix}/models/{{owner}}/{{name}}", self.get)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return a model with the latest version."""
        model = self.known.get(f"{request.match_info['owner']}/{request.match_info['name']}")
        return not_found() if model is None else web.json_response(_model_body(model))

    def version_of(self, given: object, model: str | None) -> tuple[str, str | None] | web.Response:
        """Return model and version of a create at Replicate, or the refusal.

        :param given: member `version` of the body: id, `owner/name:id`, or an official `owner/name`
        :param model: `owner/name` in the path, None without
        """
        if model is not None:
            is_official = model in self.known and self.known[model].is_official
            return (model, None) if is_official else not_found()
        if not isinstance(given, str) or not given:
            invalid = {"type": "required", "field": "version", "description": "version is required"}
            return problem(422, "- version: version is required\n", "Input validation failed", invalid)
        named, _, identifier = given.rpartition(":")
        if given in self.known and self.known[given].is_official:
            return given, None
        for name, known in self.known.items():
            if identifier in known.versions and named in ("", name):
                return name, identifier
        return problem(
            422,
            "The specified version does not exist (or perhaps you don't have permission to use it?)",
            "Invalid version or not permitted",
        )


def not_found() -> web.Response:
    """Return Replicate's 404."""
    return problem(404, "The requested resource could not be found.")


def problem(
    status: int, detail: str, title: str | None = None, *invalid_fields: dict[str, str]
) -> web.Response:
    """Return an error as Replicate sends errors: RFC 9457, without a title for a 404.

    :param invalid_fields: problems of the body
    """
    body: dict[str, Any] = {"title": title} if title else {}
    body |= {"detail": detail, "status": status}
    if invalid_fields:
        body["invalid_fields"] = list(invalid_fields)
    return web.json_response(body, status=status, content_type="application/problem+json")


def _model_body(model: Model) -> dict[str, Any]:
    """Return a model's JSON object: https://api.replicate.com/openapi.json, `schemas_model_response`."""
    return {
        "url": f"https://replicate.com/{model.owner}/{model.name}",
        "owner": model.owner,
        "name": model.name,
        "description": "A model that the emulator plays.",
        "visibility": "public",
        "is_official": model.is_official,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 1,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version_body(model.versions[-1]) if model.versions else None,
    }


def version_body(identifier: str) -> dict[str, Any]:
    """Return a version's JSON object."""
    properties = {name: _property_of(known) for name, known in FIELDS.items()}
    schemas = {
        "Input": {"type": "object", "title": "Input", "required": ["prompt"], "properties": properties},
        "Output": {"type": "string", "title": "Output", "format": "uri"},
    }
    return {
        "id": identifier,
        "created_at": iso(0),
        "cog_version": "0.14.0",
        "openapi_schema": {
            "openapi": "3.0.2",
            "info": {"title": "Cog", "version": "0.1.0"},
            "paths": {},
            "components": {"schemas": schemas},
        },
    }


def _property_of(known: InputField) -> dict[str, Any]:
    found: dict[str, Any] = {"title": known.name, "type": _JSON_TYPES[known.kind]}
    if known.kind == "urls":
        found["items"] = {"type": "string", "format": "uri"}
    if known.default is not None:
        found["default"] = known.default
    return found
