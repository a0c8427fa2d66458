"""A prediction, which is one run of a model, and its status.

Members are as documented at https://replicate.com/docs/reference/http#predictions.get.
"""

from __future__ import annotations

__all__ = ("Prediction", "PredictionStatus", "Progress")

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.ids import is_id
from airflow_vace.inputs import FIELDS
from airflow_vace.output import MAX_TEXT_LENGTH, has_content, public_output, urls_in
from airflow_vace.progress import Progress
from airflow_vace.redaction import excerpt, is_shortened, public_text, public_texts, unsigned
from airflow_vace.status import PredictionStatus, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# The server deletes files, output, input and logs one hour after the end:
# https://replicate.com/docs/topics/predictions/data-retention
RETENTION_SECONDS = 3600.0

# https://replicate.com/docs/reference/error-codes: E6716 is a timeout at the start, so the same input can
# succeed in another run; E1001 is out of memory, so the same input fails again.
_TRANSIENT_CODES = frozenset({"E1000", "E6716"})
_PERMANENT_CODES = frozenset({"E1001"})
_TRANSIENT_WORDS = re.compile(r"queue(?: is)? full|interrupted", re.IGNORECASE)
_ERROR_CODE = re.compile(r"\bE\d{4}\b")

_MAX_BEHIND_UTC = timedelta(hours=12)

# Payloads live in database rows, so each part of a response is bounded.
_MAX_MEMBERS = 40
_MAX_ERROR_LENGTH = 2000
# More digits than a 64-bit integer has overflow the columns of databases.
_MAX_DIGITS = 19


_PUBLIC_TEXTS = ("model", "version", "created_at", "started_at", "completed_at")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One run of a model, in its state at the last response of the server.

    :param id: 1 to 200 visible ASCII characters, see :func:`airflow_vace.ids.is_id`
    :param status: :class:`PredictionStatus`
    :param status_word: the server's own word, None for a word that the API documents
    :param upstream_id: id under which a gateway's answers name the prediction, None if equal to `id`
    :param model: `owner/name`, None if unknown
    :param version: id of the version, None if unknown or hidden
    :param urls: addresses by name: `get`, `cancel`, `web`
    :param output: verbatim JSON, None before the end
    :param error: text, None without an error
    :param created_at: ISO 8601 text, verbatim; likewise `started_at` and `completed_at`
    :param metrics: durations in seconds by name, such as `predict_time`
    :param data_removed: True if the server reports the files as deleted
    :param files: saved files, each `{"uri", "size", "sha256", "content_type"}`, and of a video `facts` if
        checked, see :mod:`airflow_vace.storage.checks`, and `poster`, the address of a JPEG
    :param input: verbatim JSON
    :param logs: text, None if absent
    :param seed: seed of the run, None if unknown
    :param label: description of the task's video, None without a label
    :param map_index: index of the mapped task, None without mapping
    :param cost: `{"amount", "currency", "basis"}` of the task's prediction, None if nobody has asked for it;
        see :mod:`airflow_vace.core.pricing`
    :param reused: True for a saved result of an earlier order, which this task has not paid for
    :param rejected: earlier clips of the task whose videos have problems, each `{"id", "seed", "uri",
        "problems"}` and `cost` if known
    """

    id: str
    status: PredictionStatus
    status_word: str | None = None
    upstream_id: str | None = None
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
    reused: bool = False
    cost: dict[str, Any] | None = None
    rejected: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read a prediction from a response or a payload; only id and status are required.

        :param data: parsed JSON
        :raises VaceProtocolError: if `data` is not an object with a valid id and a status
        """
        if not isinstance(data, dict):
            raise VaceProtocolError(f"Expected a prediction, got {_shown(data)}", body=_shown(data))
        identifier = _read_id(data)
        sent = _object(data.get("input"))
        # A signed URL in a payload would be readable for all users of the Airflow UI.
        texts = public_texts({name: data.get(name) for name in _PUBLIC_TEXTS}, MAX_TEXT_LENGTH)
        status, word = _read_status(data, identifier)
        return cls(
            id=identifier,
            status=status,
            status_word=word,
            upstream_id=data["upstream_id"] if is_id(data.get("upstream_id")) else None,
            model=texts["model"],
            version=texts["version"],
            urls={name: url for name, url in _members(data.get("urls")) if _text(url)},
            output=data.get("output"),
            error=_read_error(data.get("error")),
            created_at=texts["created_at"],
            started_at=texts["started_at"],
            completed_at=texts["completed_at"],
            metrics=_read_metrics(data.get("metrics")),
            data_removed=data.get("data_removed") is True,
            files=[item for item in _list(data.get("files")) if isinstance(item, dict)],
            input=sent,
            logs=data.get("logs") if isinstance(data.get("logs"), str) else None,
            seed=first_count(data.get("seed"), sent.get("seed")),
            label=_text(data.get("label")),
            map_index=first_count(data.get("map_index")),
            reused=data.get("reused") is True,
            cost=_read_cost(data.get("cost")),
            rejected=_read_rejected(data.get("rejected")),
        )

    def payload(self) -> dict[str, Any]:
        """Return the JSON form for events and XCom: at most some kilobytes, without secrets.

        Input and logs are absent. The output is None unless :attr:`fits_payload`. URLs lose queries,
        fragments and user info; `?…` marks the removal.
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
        optional = {
            "files": self.files,
            "status_word": self.status_word,
            "upstream_id": self.upstream_id,
            "reused": self.reused,
            "cost": self.cost,
            "rejected": self.rejected,
        }
        return payload | {name: value for name, value in optional.items() if value}

    def updated(self, newer: Prediction) -> Prediction:
        """Return `newer`, completed from this state; the first terminal status stays.

        :param newer: a later response for the same prediction
        """
        if self.status.is_final and not newer.status.is_final:
            # A lagging replica still reports a running prediction, which must not reopen a finished one.
            return self
        return replace(
            newer,
            upstream_id=newer.upstream_id or self.upstream_id,
            model=newer.model or self.model,
            version=newer.version or self.version,
            urls=newer.urls or self.urls,
            created_at=newer.created_at or self.created_at,
            started_at=newer.started_at or self.started_at,
            input=newer.input or self.input,
            seed=self.seed if newer.seed is None else newer.seed,
            label=newer.label or self.label,
            map_index=self.map_index if newer.map_index is None else newer.map_index,
            reused=newer.reused or self.reused,
            cost=newer.cost or self.cost,
            rejected=newer.rejected or self.rejected,
        )

    @cached_property
    def output_urls(self) -> list[str]:
        """The http, https and data URLs in the output, in order."""
        return urls_in(self.output)

    @property
    def has_output(self) -> bool:
        """Return True if the output has any content."""
        return has_content(self.output)

    @property
    def is_shortened(self) -> bool:
        """Return True if a URL in the output lost its signature; the back-end returns the full URL again."""
        return any(is_shortened(url) for url in self.output_urls)

    @property
    def fits_payload(self) -> bool:
        """Return True if a payload holds the complete output, see :mod:`airflow_vace.output`."""
        return not self.has_output or self._public_output is not None

    @cached_property
    def _public_output(self) -> Any:
        return public_output(self.output)

    @cached_property
    def progress(self) -> Progress | None:
        """Progress in the logs, None without a progress bar."""
        # Loading and decoding have bars of other lengths, so the requested number identifies the right bar.
        steps = self.input.get("sample_steps", FIELDS["sample_steps"].default)
        return Progress.from_logs(self.logs, steps if isinstance(steps, int) else None)

    @property
    def has_expired(self) -> bool:
        """Return True if the prediction succeeded and its files are deleted by now (local clock)."""
        return self.has_expired_at(datetime.now(UTC).timestamp())

    def has_expired_at(self, now: float) -> bool:
        """Return True if the prediction succeeded and its files are deleted.

        :param now: seconds since the epoch
        """
        if self.status is not PredictionStatus.SUCCEEDED or self.has_output:
            return False
        ended = latest_time(self.completed_at)
        return self.data_removed or (ended is not None and now - ended.timestamp() > RETENTION_SECONDS)

    @property
    def error_code(self) -> str | None:
        """The vendor's code in the error, such as `E1001`; None without a code."""
        match = _ERROR_CODE.search(self.error or "")
        return match[0] if match else None

    @property
    def worth_another_run(self) -> bool:
        """Return True if the prediction failed with a transient error."""
        if self.status is not PredictionStatus.FAILED or self.error_code in _PERMANENT_CODES:
            return False
        return self.error_code in _TRANSIENT_CODES or bool(_TRANSIENT_WORDS.search(self.error or ""))

    @property
    def bill(self) -> str:
        """Consequence of the status for the bill, as a sentence."""
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


def parse_time(text: str | None) -> datetime | None:
    """Return an ISO 8601 time, in UTC unless a zone is given; None for other text."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def latest_time(text: str | None) -> datetime | None:
    """Return the latest moment that an ISO 8601 time can stand for; None for other text.

    A time without a zone may be a server's local time, up to twelve hours behind UTC.
    """
    moment = parse_time(text)
    if moment is None or datetime.fromisoformat(text or "").tzinfo:
        return moment
    return moment + _MAX_BEHIND_UTC


def first_count(*values: object) -> int | None:
    """Return the first integer of at least 0, also from text; None without one (as for a random seed)."""
    for value in values:
        if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii() and value.isdigit():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**_MAX_DIGITS:
            return value
    return None


def _read_id(data: dict[str, Any]) -> str:
    identifier = data.get("id")
    # Some gateways number their tasks.
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not is_id(identifier):
        raise VaceProtocolError(
            f"Expected a prediction, got an object without a usable id: {_shown(data)}",
            body=_shown(data),
        )
    return identifier


def _read_status(data: dict[str, Any], identifier: str) -> tuple[PredictionStatus, str | None]:
    """Return the status, and the server's word if the word is not the API's own."""
    said = data.get("status")
    if not isinstance(said, str) or not said.strip():
        raise VaceProtocolError(
            f"Expected prediction {identifier}, got an object without a status: {_shown(data)}",
            body=_shown(data),
        )
    status = status_of(
        said,
        has_output=has_content(data.get("output")),
        has_error=_read_error(data.get("error")) is not None,
        has_ended=_is_moment(data.get("completed_at")),
    )
    # A payload repeats the word of the response that ended the prediction.
    word = data.get("status_word") or said
    is_own = not isinstance(word, str) or word.strip().lower() == status
    return status, None if is_own or not status.is_known else excerpt(word, 60)


def _is_moment(value: object) -> bool:
    """Return True for a time after 1970; Go's zero time and the epoch stand for a missing time."""
    moment = parse_time(value) if isinstance(value, str) else None
    return moment is not None and moment.year > 1970


def _read_metrics(value: object) -> dict[str, Any]:
    return {
        unsigned(name): item if isinstance(item, int | float | None) else public_text(item, MAX_TEXT_LENGTH)
        for name, item in _members(value)
        if isinstance(item, int | float | None) or _text(item)
    }


def _read_error(value: object) -> str | None:
    # Gateways send `{"code": "", "message": ""}` and `false` beside a success.
    if not value or (isinstance(value, dict) and not any(value.values())):
        return None
    if isinstance(value, dict):
        inner = next((value[k] for k in ("message", "detail", "error") if value.get(k)), None)
        code = value.get("code")
        # The code decides about another run, so the text must contain the code.
        value = inner if isinstance(inner, str) else json.dumps(value, ensure_ascii=False)
        value = f"{code}: {value}" if isinstance(code, str) and code not in value else value
    elif not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return excerpt(value, _MAX_ERROR_LENGTH) or None


def _read_cost(value: object) -> dict[str, Any] | None:
    """Return the cost in a payload; a vendor's member of the same name has another form."""
    return value if isinstance(value, dict) and {"amount", "currency", "basis"} <= value.keys() else None


def _read_rejected(value: object) -> list[dict[str, Any]]:
    """Return the rejected clips in a payload; a vendor's member of the same name has another form."""
    return [item for item in _list(value) if isinstance(item, dict) and {"id", "problems"} <= item.keys()]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH else None


def _members(value: object) -> Iterator[tuple[str, Any]]:
    """Yield the first members of an object, in bounded number."""
    return ((name, item) for name, item in islice(_object(value).items(), _MAX_MEMBERS) if _text(name))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(value: object) -> str:
    return excerpt(json.dumps(value, ensure_ascii=False, default=repr), 300)
