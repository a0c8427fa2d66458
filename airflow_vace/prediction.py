"""The nouns of the API: a prediction, its status, and its progress as its logs tell it.

The object is documented at https://replicate.com/docs/reference/http#predictions.get.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.exceptions import VaceProtocolError, excerpt
from airflow_vace.inputs import FIELDS
from airflow_vace.redaction import is_shortened, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whatever a server calls an id goes into paths and file names only if it looks like this.
PREDICTION_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")

# Files, output, input and logs go one hour after the end:
# https://replicate.com/docs/topics/predictions/data-retention
RETENTION_SECONDS = 3600.0


class PredictionStatus(StrEnum):
    """The six statuses of a prediction; any other word that a server says is kept, and is not final."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"

    @classmethod
    def _missing_(cls, value: object) -> PredictionStatus | None:
        if not isinstance(value, str):
            return None
        word = value.strip().lower()
        word = {"cancelled": "canceled"}.get(word, word)
        if word in cls._value2member_map_:
            return cls(word)
        unknown = str.__new__(cls, excerpt(word, 60))
        unknown._name_ = "UNKNOWN"
        unknown._value_ = str(unknown)
        return unknown

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow; False for a word that is not known."""
        return self in _FINAL

    @property
    def is_known(self) -> bool:
        return self._name_ != "UNKNOWN"


_FINAL = frozenset(
    {
        PredictionStatus.SUCCEEDED,
        PredictionStatus.FAILED,
        PredictionStatus.CANCELED,
        PredictionStatus.ABORTED,
    }
)

# One tqdm bar: " 38%|███▊      | 19/50 [00:30<00:48,  1.57s/it]". Every repetition is bounded.
_BAR = re.compile(
    r"(?P<percent>\d{1,3})%\|[^|\r\n]{0,300}\|\s{0,10}(?P<step>\d{1,9})/(?P<steps>\d{1,9})"
    r" \[[^\]<\r\n]{0,40}<(?P<eta>[^\],\r\n]{0,40})(?:,\s{0,10}(?P<rate>[\d.]{1,20})(?P<unit>s/it|it/s))?"
)
# Megabytes of logs come; the newest bars stand at the end.
_LOGS_READ = 256 * 1024
_MOST_BARS = 500


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a prediction is, as its newest progress bar says.

    `percent` is 0-100, `step` of `steps` are the model's, `eta` is in seconds and
    `seconds_per_step` too; both are None where the bar does not know them. `is_of_steps` says that it is
    the bar of the steps that were asked for, and not one of loading or decoding.
    """

    percent: int
    step: int
    steps: int
    eta: float | None = None
    seconds_per_step: float | None = None
    is_of_steps: bool = False

    @classmethod
    def from_logs(cls, logs: str | None, steps: int | None = None) -> Self | None:
        """Read the newest bar; the newest of `steps` steps, if any is so long. None without a bar."""
        newest: re.Match[str] | None = None
        asked: re.Match[str] | None = None
        for bar in _bars_from_the_end(logs or ""):
            newest = bar if newest is None else newest
            if int(bar["steps"]) == steps:
                asked = bar
                break
        found = asked or newest
        if found is None:
            return None
        rate = _number(found["rate"])
        if rate and found["unit"] == "it/s":
            rate = 1 / rate
        return cls(
            percent=min(int(found["percent"]), 100),
            step=int(found["step"]),
            steps=int(found["steps"]),
            eta=_duration(found["eta"]),
            seconds_per_step=rate or None,
            is_of_steps=asked is not None,
        )


def _bars_from_the_end(logs: str) -> Iterator[re.Match[str]]:
    """Yield the bars of a log, the newest first."""
    end = len(logs)
    first = max(end - _LOGS_READ, 0)
    for _ in range(_MOST_BARS):
        end = logs.rfind("%|", first, end)
        if end < 0:
            return
        digits = re.search(r"\d{1,3}$", logs[max(end - 3, first) : end])
        bar = _BAR.match(logs, end - len(digits[0])) if digits else None
        if bar:
            yield bar


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _duration(clock: str) -> float | None:
    """Read tqdm's `48`, `00:48`, `1:02:03`; None for `?` and the like."""
    parts = clock.strip().split(":")
    if not all(part.isascii() and part.isdigit() for part in parts):
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds


# https://replicate.com/docs/reference/error-codes: what another run can mend.
_PASSING_CODES = frozenset({"E6716"})
_LASTING_CODES = frozenset({"E1001"})
_PASSING_WORDS = re.compile(r"queue(?: is)? full|interrupted", re.IGNORECASE)
_ERROR_CODE = re.compile(r"\bE\d{4}\b")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One run of a model, as last told by the server.

    `input` and `output` are verbatim JSON; times are verbatim ISO 8601 text; `error` is text or None;
    `metrics` are in seconds; `files` are what was saved of the output:
    `{"uri", "size", "sha256", "content_type"}` each. `seed` is the one that was sent or echoed, None if it
    is not known; `label` and `map_index` say which task's it is, None where nobody has said it.
    """

    id: str
    status: PredictionStatus
    model: str | None = None
    version: str | None = None
    urls: dict[str, str] = field(default_factory=dict)
    output: Any = field(default=None, repr=False)
    error: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    data_removed: bool = False
    files: list[dict[str, Any]] = field(default_factory=list)
    input: dict[str, Any] = field(default_factory=dict, repr=False)
    logs: str | None = field(default=None, repr=False)
    seed: int | None = None
    label: str | None = None
    map_index: int | None = None

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read a prediction from the wire or from a payload; everything but id and status may lack.

        :raises VaceProtocolError: if `data` is no object with an id and a status
        """
        if not isinstance(data, dict):
            raise VaceProtocolError(f"Expected a prediction, got {_shown(data)}", body=_shown(data))
        identifier = data.get("id")
        if isinstance(identifier, int) and not isinstance(identifier, bool):
            identifier = str(identifier)
        if not isinstance(identifier, str) or not PREDICTION_ID.fullmatch(identifier):
            raise VaceProtocolError(
                f"Expected a prediction, got an object without a usable id: {_shown(data)}",
                body=_shown(data),
            )
        status = data.get("status")
        if not isinstance(status, str) or not status.strip():
            raise VaceProtocolError(
                f"Expected prediction {identifier}, got an object without a status: {_shown(data)}",
                body=_shown(data),
            )
        return cls(
            id=identifier,
            status=PredictionStatus(status),
            model=_public_text(data.get("model")),
            version=_public_text(data.get("version")),
            urls={k: v for k, v in _first(data.get("urls")) if _text(v)},
            output=data.get("output"),
            error=_error_text(data.get("error")),
            created_at=_public_text(data.get("created_at")),
            started_at=_public_text(data.get("started_at")),
            completed_at=_public_text(data.get("completed_at")),
            metrics={
                unsigned(k): v if isinstance(v, int | float | None) else _public_text(v)
                for k, v in _first(data.get("metrics"))
                if isinstance(v, int | float | None) or _text(v)
            },
            data_removed=data.get("data_removed") is True,
            files=[item for item in _list(data.get("files")) if isinstance(item, dict)],
            input=_object(data.get("input")),
            logs=data.get("logs") if isinstance(data.get("logs"), str) else None,
            seed=first_count(data.get("seed"), _object(data.get("input")).get("seed")),
            label=_text(data.get("label")),
            map_index=first_count(data.get("map_index")),
        )

    def payload(self) -> dict[str, Any]:
        """Return the JSON form for events and XCom: small, and without anything that opens a URL.

        Input and logs are left out, and so is an output that is not held as a whole, see
        :attr:`fits_payload`. Of an address with a query, a fragment or user info its place is kept, with `?…`
        at its end.
        """
        payload: dict[str, Any] = {
            "id": self.id,
            "status": str(self.status),
            "model": self.model,
            "version": self.version,
            "urls": {name: unsigned(url) for name, url in self.urls.items()},
            "output": self._public_output,
            "error": self.error,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "completed_at": self.completed_at,
            "metrics": self.metrics,
            "data_removed": self.data_removed,
            "seed": self.seed,
            "map_index": self.map_index,
            "label": self.label,
        }
        if self.files:
            payload["files"] = self.files
        return payload

    def updated(self, newer: Prediction) -> Prediction:
        """Return `newer` with what only this one knew; the first final status stays."""
        if self.status.is_final and not newer.status.is_final:
            return self
        return replace(
            newer,
            model=newer.model or self.model,
            version=newer.version or self.version,
            urls=newer.urls or self.urls,
            created_at=newer.created_at or self.created_at,
            started_at=newer.started_at or self.started_at,
            input=newer.input or self.input,
            seed=self.seed if newer.seed is None else newer.seed,
            label=newer.label or self.label,
            map_index=self.map_index if newer.map_index is None else newer.map_index,
        )

    @cached_property
    def output_urls(self) -> list[str]:
        """The URLs in the output (http, https or data), in order, whether it is text, list or object."""
        found: list[str] = []
        _collect_urls(self.output, found)
        return found

    @property
    def has_output(self) -> bool:
        """Whether the output, of whatever form, holds anything."""
        return _holds_anything(self.output)

    @property
    def is_shortened(self) -> bool:
        """Whether an address in the output lacks what opens it: the back-end gives the whole one again."""
        return any(is_shortened(url) for url in self.output_urls)

    @property
    def fits_payload(self) -> bool:
        """Return True if a payload holds all of the output.

        It holds no `data:` URL, no thousands of URLs, nothing that is nested deeply, and no object whose keys
        are equal without what signs them.
        """
        return not self.has_output or self._public_output is not None

    @cached_property
    def _public_output(self) -> Any:
        try:
            output = _shortened(self.output)
        except _Unfit:
            return None
        is_small = isinstance(output, str) and len(output) <= _LONGEST_TEXT
        return output if is_small or len(json.dumps(output)) <= _LARGEST_OUTPUT else None

    @cached_property
    def progress(self) -> Progress | None:
        """Progress as the logs tell it, None where they tell none."""
        steps = self.input.get("sample_steps", FIELDS["sample_steps"].default)
        return Progress.from_logs(self.logs, steps if isinstance(steps, int) else None)

    @property
    def has_expired(self) -> bool:
        """Whether it succeeded and its files have been deleted since, by this machine's clock."""
        return self.has_expired_at(datetime.now(UTC).timestamp())

    def has_expired_at(self, now: float) -> bool:
        """Return True if it succeeded and its files are deleted by `now`, in seconds since the epoch."""
        if self.status is not PredictionStatus.SUCCEEDED or self.has_output:
            return False
        ended = parse_time(self.completed_at)
        return self.data_removed or (ended is not None and now - ended.timestamp() > RETENTION_SECONDS)

    @property
    def error_code(self) -> str | None:
        """The vendor's code (`E1001`) in the error, if it carries one."""
        match = _ERROR_CODE.search(self.error or "")
        return match[0] if match else None

    @property
    def worth_another_run(self) -> bool:
        """Whether the error is of the kind that the same input may not meet again."""
        if self.status is not PredictionStatus.FAILED or self.error_code in _LASTING_CODES:
            return False
        return self.error_code in _PASSING_CODES or bool(_PASSING_WORDS.search(self.error or ""))

    @property
    def bill(self) -> str:
        """What the status means for the bill, in a sentence."""
        match self.status:
            case PredictionStatus.SUCCEEDED:
                return "It is billed."
            case PredictionStatus.ABORTED:
                return "It never started and is not billed."
            case PredictionStatus.CANCELED:
                return "It is billed for the time that it ran."
            case PredictionStatus.FAILED:
                return "It may be billed for the time that it ran."
            case _:
                return "It may still be running, and is then billed."


def is_data(url: str) -> bool:
    """Return True if a URL is the file itself."""
    return url.lstrip()[:5].lower() == "data:"


def parse_time(text: str | None) -> datetime | None:
    """Read an ISO 8601 time with any number of fractional digits; UTC if it names no zone, None if none."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT else None


def _public_text(value: object) -> str | None:
    """Return text without what opens the addresses in it."""
    text = _text(value)
    return None if text is None or is_data(text) else unsigned(text)


def _first(value: object) -> Iterator[tuple[str, Any]]:
    """Yield what an object has, as far as anybody has met it."""
    return ((name, item) for name, item in islice(_object(value).items(), _MOST_MEMBERS) if _text(name))


def first_count(*values: object) -> int | None:
    """Return the first number from 0 on, also as text; None if there is none, as for a random seed."""
    for value in values:
        if isinstance(value, str) and len(value) <= _MOST_DIGITS and value.isascii() and value.isdigit():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**_MOST_DIGITS:
            return value
    return None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(value: object) -> str:
    return excerpt(json.dumps(value, ensure_ascii=False, default=repr), 300)


def _error_text(value: object) -> str | None:
    if isinstance(value, dict):
        inner = next((value[k] for k in ("message", "detail", "error") if value.get(k)), None)
        code = value.get("code")
        value = inner if isinstance(inner, str) else json.dumps(value, ensure_ascii=False)
        value = f"{code}: {value}" if isinstance(code, str) and code not in value else value
    elif value is not None and not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return excerpt(value, 2000) if value else None


_DEEPEST_OUTPUT = 8
# Signed URLs take some kilobytes at most, lists of them some more.
_LONGEST_TEXT = 8192
_LARGEST_OUTPUT = 65536
_MOST_MEMBERS = 40
_MOST_DIGITS = 19


def _collect_urls(output: object, found: list[str], depth: int = 0) -> None:
    if isinstance(output, str):
        if output.lstrip()[:8].lower().startswith(("http://", "https://", "data:")):
            found.append(output.strip())
    elif depth < _DEEPEST_OUTPUT and isinstance(output, list | dict):
        for item in output.values() if isinstance(output, dict) else output:
            _collect_urls(item, found, depth + 1)


def _holds_anything(output: object, depth: int = 0) -> bool:
    if isinstance(output, list | dict) and depth < _DEEPEST_OUTPUT:
        items = output.values() if isinstance(output, dict) else output
        return any(_holds_anything(item, depth + 1) for item in items)
    return output is not None and output not in ("", [], {})


class _Unfit(Exception):  # noqa: N818 - never leaves this module
    """Raised for an output of which a part would be lost."""


def _shortened(output: Any, depth: int = 0) -> Any:
    """Return an output without what opens its addresses.

    :raises _Unfit: if it holds a file, is nested deeply, or has keys that are equal without their signatures
    """
    if isinstance(output, str):
        if is_data(output):
            raise _Unfit
        return unsigned(output)
    if not isinstance(output, list | dict):
        return output
    if depth >= _DEEPEST_OUTPUT:
        raise _Unfit
    if isinstance(output, list):
        return [_shortened(item, depth + 1) for item in output]
    found = {_shortened(str(key)): _shortened(item, depth + 1) for key, item in output.items()}
    if len(found) < len(output):
        raise _Unfit
    return found
