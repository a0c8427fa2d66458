"""Orders: the input, model, version and connection of a create, and the digests that identify them.

Digests are stored in records, so a release that changes a digest pays again for earlier predictions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from airflow_vace.inputs import DEFAULT_MODEL, FIELDS
from airflow_vace.redaction import is_data

if TYPE_CHECKING:
    from collections.abc import Iterable

# Arguments may refer to themselves, so a digest stops at this depth.
_MAX_ARGUMENT_DEPTH = 12

# A query counts as signed only with one of these: AWS, CloudFront, Google, Azure, Alibaba, Tencent.
_SIGNATURES = frozenset(
    {"signature", "sig", "x-amz-signature", "x-goog-signature", "x-oss-signature", "q-signature"}
)
# All parameters that change whenever the same URL is signed again.
_SIGNING = re.compile(
    r"x-(amz|goog|oss|cos)-.*|q-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"
    r"|ossaccesskeyid|security-token|sig|se|sp|spr|sr|st|sv|sk(oid|tid|t|e|s|v)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The normalised content of a create, and the connection for the request.

    `values` are the inputs as the author wrote them, with files as paths. `version` is None for the server's
    choice. `arguments` is the digest of values handed over by other tasks, or by the caller of a function;
    None without any. `digest` is the digest for manifests, see :meth:`identified`; None if unknown.
    """

    values: Mapping[str, Any] = field(repr=False)
    model: str
    version: str | None
    conn_id: str
    arguments: str | None = None
    digest: str | None = field(default=None, compare=False)

    @property
    def is_random(self) -> bool:
        """Return True if the model would draw a random seed."""
        seed = self.values.get("seed", FIELDS["seed"].default)
        return self.model.lower() == DEFAULT_MODEL and seed < 0

    def with_seed(self, seed: int) -> Order:
        """Return the order with a fixed seed."""
        return replace(self, values={**self.values, "seed": seed})

    @property
    def fixed_seed(self) -> int | None:
        """The author's seed of a model whose seeds are known; None for a random seed."""
        if self.model.lower() != DEFAULT_MODEL or self.is_random:
            return None
        seed: int = self.values["seed"]
        return seed

    def identified(self, contents: Mapping[str, Any] | None) -> Order:
        """Return the order with a digest that is equal in all runs for equal input, model and version.

        The digest covers the content of source files in place of their paths. Connection, signatures in URLs
        and VACE's seed stay out: a manifest holds the seed beside the digest.

        :param contents: JSON that identifies the content of a source file, by path; None if unknown
        """
        if contents is None:
            return replace(self, digest=None)
        values = {
            name: _without_signature(_with_contents(value, contents)) for name, value in self.values.items()
        }
        if self.model.lower() == DEFAULT_MODEL:
            # A later release may add inputs with a default, so only other values count.
            values = {n: v for n, v in values.items() if n != "seed" and not _is_default(n, v)}
        return replace(self, digest=_digest([self.model.lower(), self.version, values]))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 digest of the order; equal orders have equal digests.

        The digest ignores signatures in URLs, since each signing makes a new signature, and random seeds.
        """
        values = {name: _without_signature(value) for name, value in self._completed.items()}
        if self.is_random:
            del values["seed"]
        return _digest([self.model.lower(), self.version, values, self.conn_id])

    @property
    def _completed(self) -> dict[str, Any]:
        # Servers differ in echoing defaults, so a default counts as given.
        if self.model.lower() != DEFAULT_MODEL:
            return dict(self.values)
        defaults = {name: known.default for name, known in FIELDS.items() if known.default is not None}
        return {**defaults, **self.values}


def _is_default(name: str, value: Any) -> bool:
    return name in FIELDS and value == FIELDS[name].default


def names_in_echo(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sorted names of inputs that a server echoes unchanged."""
    # A server may replace a `data:` URL by an address, so an input with a file cannot identify a prediction.
    return tuple(sorted(name for name, value in values.items() if not _holds_data(value)))


def mark_of(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the SHA-256 digest of the named inputs, for comparison with a server's echo."""
    return _digest({name: _without_signature(values.get(name)) for name in names})


def digest_of_arguments(value: object) -> str:
    """Return a digest of a task's arguments, equal in all processes."""
    return _digest(_steady(value))


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _steady(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON that is equal in all processes, without addresses and with sorted sets."""
    if value is None or isinstance(value, str | int | float):
        return _without_signature(value)
    if depth > _MAX_ARGUMENT_DEPTH:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(name): _steady(item, depth + 1) for name, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((_steady(item, depth + 1) for item in value), key=_digest)
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Sequence):
        # Airflow's lazy results of a mapped task fetch a slice with one request, and an item with one each.
        return [_steady(item, depth + 1) for item in value[:]]
    return _steady_object(value, depth + 1)


def _steady_object(value: Any, depth: int) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _steady(getattr(value, f.name), depth) for f in fields(value)}
    # The text of a large table or array omits rows, so only these methods distinguish two of them.
    for name in ("to_json", "tolist"):
        with suppress(Exception):  # an unrelated method of the same name may need arguments, or fail
            return _steady(getattr(value, name)(), depth)
    text = str(value)
    if " at 0x" not in text:
        return text
    return [type(value).__qualname__, _steady(getattr(value, "__dict__", None), depth)]


def _without_signature(value: Any) -> Any:
    """Return a value in the form that a server echoes, and URLs without signing parameters."""
    if isinstance(value, list):
        return [_without_signature(item) for item in value]
    if isinstance(value, dict):
        # Only signatures, since the digest of an object must stay as earlier releases made it.
        return {name: _without_inner_signature(item) for name, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    value = value.strip()  # servers strip text, so an echo lacks the blanks
    if value.startswith("file://"):
        # Earlier releases percent-encoded local paths, and a digest must stay the same.
        return f"file://{quote(value[7:], safe='/%', errors='surrogateescape')}"
    return _without_signing(value)


def _without_inner_signature(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_inner_signature(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_inner_signature(item) for name, item in value.items()}
    return _without_signing(value) if isinstance(value, str) else value


def _without_signing(value: str) -> str:
    if not value.lower().startswith(("http://", "https://")):
        return value
    try:
        parts = urlsplit(value)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # a prompt that begins like a URL
        return value
    if not any(name.lower() in _SIGNATURES for name, _ in query):
        return value
    kept = [(name, text) for name, text in query if not _SIGNING.fullmatch(name)]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def _with_contents(value: Any, contents: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_with_contents(item, contents) for item in value]
    if isinstance(value, Mapping):
        return {name: _with_contents(item, contents) for name, item in value.items()}
    return contents.get(value, value) if isinstance(value, str) else value


def _holds_data(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(map(_holds_data, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and is_data(value)
