"""Models of the emulated vendor: their routes, versions, and the creates that Replicate refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_vace.emulator.dialects import not_found, refusal
from airflow_vace.emulator.plays import ECHO, VACE, Play, play_of
from airflow_vace.emulator.world import iso
from airflow_vace.inputs import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_vace.emulator.dialects import BackendName

# Published on https://replicate.com/prunaai/vace-14b/versions.
FIRST_VERSION = "51299232dc3d0946d5f5ed74935d85243e172698f747d291460db1e6ef3669fb"
# Stands for all models that nobody declared.
ANY = "*"
_VERSION = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


@dataclass(kw_only=True)
class Model:
    """A model at the emulated vendor.

    :param versions: ids, the latest last
    :param is_official: accepts creates without a version; a community model needs a version
    :param play: checks of the input, and the output
    """

    owner: str
    name: str
    versions: list[str] = field(default_factory=list)
    is_official: bool = False
    play: Play = ECHO


class Models:
    """All models of an emulator; `known` maps `owner/name` to a model.

    :param declared: further models: `owner/name` or `owner/name:version` to an OpenAPI schema as Cog writes
        it, an output, the path of a file that is the output, or None for an echo of the input; the name `*`
        lets any model and any version be an echo
    :raises ValueError: if a name has another form
    """

    def __init__(self, declared: Mapping[str, Any] | None = None) -> None:
        self.known: dict[str, Model] = {}
        self.files: dict[str, Path] = {}
        self.plays_any = False
        self.publish(FIRST_VERSION)
        self.known[DEFAULT_MODEL].play = VACE
        for reference, given in (declared or {}).items():
            self._declare(reference, given)

    def _declare(self, reference: str, given: Any) -> None:
        if reference == ANY:
            self.plays_any = True
            return
        name, _, version = reference.partition(":")
        if not _NAME.fullmatch(name):
            raise ValueError(f"a model is owner/name or owner/name:version, not {reference!r}")
        if version or name not in self.known:
            self.publish(version or sha256(name.encode()).hexdigest(), name)
        if given is not None:
            self.known[name].play = play_of(given, self.files)

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
        """Register the routes."""
        router.add_get(prefix + "/models", self.list)
        router.add_get(prefix + "/models/{owner}/{name}", self.get)
        router.add_get(prefix + "/models/{owner}/{name}/versions", self.list_versions)
        router.add_get(prefix + "/models/{owner}/{name}/versions/{version}", self.get_version)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Return all models on a single page."""
        del request
        return _page([_model_body(model) for model in self.known.values()])

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return a model with the latest version."""
        model = self._asked_for(request)
        return not_found() if model is None else web.json_response(_model_body(model))

    async def list_versions(self, request: web.Request) -> web.StreamResponse:
        """Return the versions of a model on a single page, newest first."""
        model = self._asked_for(request)
        if model is None:
            return not_found()
        return _page([version_body(version, model.play) for version in reversed(model.versions)])

    async def get_version(self, request: web.Request) -> web.StreamResponse:
        """Return a version of a model."""
        model, version = self._asked_for(request), request.match_info["version"]
        if model is None or version not in model.versions:
            return not_found()
        return web.json_response(version_body(version, model.play))

    def _asked_for(self, request: web.Request) -> Model | None:
        return self.named(f"{request.match_info['owner']}/{request.match_info['name']}")

    def named(self, name: str) -> Model | None:
        """Return the model `owner/name`, None if nobody declared the model."""
        if name not in self.known and self.plays_any:
            self.publish(sha256(name.encode()).hexdigest(), name)
        return self.known.get(name)

    def version_of(self, given: object, model: str | None) -> tuple[Model, str | None] | web.Response:
        """Return model and version of a create at Replicate, or the refusal.

        :param given: member `version` of the body: id, `owner/name:id`, or an official `owner/name`
        :param model: `owner/name` in the path, None without
        """
        if model is not None:
            known = self.named(model)
            return (known, None) if known and known.is_official else not_found()
        if not isinstance(given, str) or not given:
            invalid = {"type": "required", "field": "version", "description": "version is required"}
            detail = "- version: version is required\n"
            return refusal("replicate", 422, detail, "Input validation failed", invalid_fields=[invalid])
        official = self.known.get(given)
        if official and official.is_official:
            return official, None
        named, _, identifier = given.rpartition(":")
        found = self._published(named, identifier)
        if found is not None:
            return found, identifier
        return _no_version("replicate", identifier)

    def check_version(self, version: object, model: Model, backend: BackendName) -> web.Response | None:
        """Return the refusal of a version by a back-end that names the model apart, None for a possible one.

        :param version: member `version` of the body, None or empty for the latest
        """
        # A gateway may know more versions than the emulator, but none in another form.
        is_possible = not version or version in model.versions
        if is_possible or (isinstance(version, str) and _VERSION.fullmatch(version.rpartition(":")[2])):
            return None
        return _no_version(backend, version)

    def _published(self, named: str, identifier: str) -> Model | None:
        """Return the model of a version, None for an unknown version.

        :param named: `owner/name`, empty if only the id is known
        """
        for name, model in self.known.items():
            if identifier in model.versions:
                return model if named in ("", name) else None
        if not _VERSION.fullmatch(identifier):
            return None
        # The vendor has more models than the emulator knows, so a full reference to one is an echo.
        other = named or ("any/model" if self.plays_any else "")
        if not _NAME.fullmatch(other) or (other in self.known and not self.plays_any):
            return None
        self.publish(identifier, other)
        return self.known[other]


def _no_version(backend: BackendName, version: object) -> web.Response:
    detail = "The specified version does not exist (or perhaps you don't have permission to use it?)"
    if not _VERSION.fullmatch(str(version)):
        detail += (
            f": {version!r} is not the id of a version, which has 64 hex digits, such as {FIRST_VERSION}"
        )
    return refusal(backend, 422, detail, "Invalid version or not permitted")


def _page(results: list[dict[str, Any]]) -> web.Response:
    return web.json_response({"previous": None, "next": None, "results": results})


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
        "latest_version": version_body(model.versions[-1], model.play) if model.versions else None,
    }


def version_body(identifier: str, play: Play) -> dict[str, Any]:
    """Return a version's JSON object."""
    return {
        "id": identifier,
        "created_at": iso(0),
        "cog_version": "0.14.0",
        "openapi_schema": play.schema,
    }
