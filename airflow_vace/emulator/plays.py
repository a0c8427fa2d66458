"""Inputs and outputs of a model: VACE's own, those of an OpenAPI schema, a fixed output, or an echo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.emulator.checks import invalid_fields
from airflow_vace.emulator.dialects import OWN_FILE, VIDEO
from airflow_vace.inputs import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.inputs import InputField

    Problems = list[dict[str, str]]

_JSON_TYPES = {"str": "string", "url": "string", "int": "integer", "number": "number", "urls": "array"}
_EXAMPLES: dict[str, Any] = {"string": "text", "integer": 1, "number": 1.0, "boolean": True}


@dataclass(frozen=True)
class Play:
    """How the emulator plays a model.

    :param schema: the member `openapi_schema` of a version, as Cog writes it
    :param problems: function from an input to its problems, in the form of `invalid_fields`
    :param output: function from an input to the output of a successful prediction
    """

    schema: dict[str, Any]
    problems: Callable[[Any], Problems]
    output: Callable[[dict[str, Any]], Any]


def play_of(given: Any, files: dict[str, Path]) -> Play:
    """Return the play of a model from a schema, the path of a file, or an output.

    :param files: gets the files that outputs name, by their names in URLs
    """
    if isinstance(given, dict) and "components" in given:
        return _schema_play(given)
    output = _with_files(given, files)
    return Play(_cog_schema({"type": "object"}, {}), _object_problems, lambda _: output)


def _with_files(output: Any, files: dict[str, Path]) -> Any:
    if isinstance(output, Path):
        # Two files of one name would have the same URL.
        name = output.name if files.get(output.name, output) == output else f"{len(files)}-{output.name}"
        files[name] = output
        return f"{OWN_FILE}{name}"
    if isinstance(output, list | tuple):
        return [_with_files(item, files) for item in output]
    if isinstance(output, dict):
        return {name: _with_files(item, files) for name, item in output.items()}
    return output


def _schema_play(schema: dict[str, Any]) -> Play:
    from jsonschema import Draft7Validator

    # Cog's schemas refer to each other from the document's root.
    validator = Draft7Validator({**schema, "$ref": "#/components/schemas/Input"})

    def problems(values: Any) -> Problems:
        return [
            {
                "type": str(error.validator),
                "field": ".".join(["input", *map(str, error.absolute_path)]),
                "description": error.message,
            }
            for error in validator.iter_errors(values)
        ]

    output = _example({"$ref": "#/components/schemas/Output"}, schema)
    return Play(schema, problems, lambda _: output)


def _example(schema: dict[str, Any], root: dict[str, Any], depth: int = 20) -> Any:
    """Return a value that a schema allows, None where the schema says nothing."""
    if depth == 0:
        return None
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return _example(found, root, depth - 1)
    for name in ("allOf", "anyOf", "oneOf"):
        if name in schema:
            return _example(schema[name][0], root, depth - 1)
    if "default" in schema or "enum" in schema:
        return schema["default"] if "default" in schema else schema["enum"][0]
    kind = schema.get("type")
    if kind == "array":
        return [_example(schema.get("items", {}), root, depth - 1)]
    if kind == "object":
        parts = schema.get("properties", {}).items()
        return {name: _example(part, root, depth - 1) for name, part in parts}
    return VIDEO if schema.get("format") == "uri" else _EXAMPLES.get(str(kind))


def _cog_schema(inputs: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {},
        "components": {
            "schemas": {"Input": {"title": "Input", **inputs}, "Output": {"title": "Output", **output}}
        },
    }


def _object_problems(values: Any) -> Problems:
    if isinstance(values, dict):
        return []
    return [{"type": "invalid_type", "field": "input", "description": "Expected an object"}]


def _property_of(known: InputField) -> dict[str, Any]:
    found: dict[str, Any] = {"title": known.name, "type": _JSON_TYPES[known.kind]}
    if known.kind == "urls":
        found["items"] = {"type": "string", "format": "uri"}
    if known.default is not None:
        found["default"] = known.default
    return found


ECHO = Play(_cog_schema({"type": "object"}, {"type": "object"}), _object_problems, lambda values: values)
VACE = Play(
    _cog_schema(
        {
            "type": "object",
            "required": ["prompt"],
            "properties": {name: _property_of(known) for name, known in FIELDS.items()},
        },
        {"type": "string", "format": "uri"},
    ),
    invalid_fields,
    lambda _: VIDEO,
)
