"""Errors of this package, one class for each reaction of a caller.

::

    VaceError
    ├── VaceInputError          The request is invalid and was not sent: fix the named field.
    ├── VaceTransportError      No response arrived: retry a read; before a create, check `sent`.
    │   └── VaceConnectionMissing   Airflow has no connection of this id: fix `vace_conn_id`.
    ├── VaceAPIError            The server refused: see `status_code`, `detail` and `code`.
    │   ├── VaceAuthError       The API key was rejected or lacks permission: fix the connection.
    │   ├── VaceBillingError    The account has no credit: top up the account.
    │   └── VaceRateLimited     Too many requests: wait `retry_after` seconds.
    ├── VaceProtocolError       The response is not a prediction: see `body`.
    ├── SubmissionUnknown       The create may be accepted and billed: check before a resubmit.
    ├── LedgerError             The record of earlier submissions is unavailable: retry the task.
    ├── BudgetExceeded          A create would pass a cap: raise the cap, or stop.
    ├── BatchFailed             Too few items of a batch succeeded: retry the task.
    ├── VideoRejected           The saved video has problems: look at the video, or pay for another one.
    └── PredictionError         The prediction ended without a video: see `prediction`.
        ├── PredictionFailed    The model or its host failed: retry if `worth_another_run`.
        ├── PredictionCanceled  A person, a deadline or the server stopped the prediction.
        ├── PredictionExpired   The prediction succeeded, but its files are deleted.
        └── PredictionTimeout   The prediction was still running at the deadline.

Catch :class:`VaceError` for all errors. Each message states the event, the id of the prediction, the
consequence for the bill and the remedy. Evidence is in attributes.
"""

from __future__ import annotations

__all__ = (
    "BatchFailed",
    "BudgetExceeded",
    "LedgerError",
    "PredictionCanceled",
    "PredictionError",
    "PredictionExpired",
    "PredictionFailed",
    "PredictionTimeout",
    "SubmissionUnknown",
    "VaceAPIError",
    "VaceAuthError",
    "VaceBillingError",
    "VaceConnectionMissing",
    "VaceError",
    "VaceInputError",
    "VaceProtocolError",
    "VaceRateLimited",
    "VaceTransportError",
    "VideoRejected",
)

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal

    from airflow_vace.prediction import Prediction

_E = TypeVar("_E", bound="VaceError")


class VaceError(Exception):
    """Base class of all errors of this package.

    `files` describes the outputs that were saved before the error, each `uri, size, sha256, content_type`.
    """

    files: Sequence[Mapping[str, Any]] = ()

    def __reduce__(self) -> tuple[Callable[..., VaceError], tuple[Any, ...]]:
        """Support pickling, although the attributes are keyword-only parameters."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[_E], args: tuple[Any, ...], evidence: dict[str, Any]) -> _E:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(evidence)
    return error


class VaceInputError(VaceError, ValueError):
    """Raised before any request if an input, parameter or connection field is invalid.

    Fix the field and run the task again; a retry of the same input fails again.

    :param field: name of the input, parameter or connection field
    :param value: the invalid value
    :param remedy: valid values, as an imperative sentence
    """

    def __init__(self, message: str, *, field: str, value: object = None, remedy: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.remedy = remedy


class VaceTransportError(VaceError):
    """Raised if no response arrived: connection refused, reset, timeout, TLS failure.

    Reads may be retried. A create may be repeated only if `sent` is False.

    :param sent: False only if the request cannot have reached the server
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class VaceConnectionMissing(VaceTransportError):  # noqa: N818 - named like its neighbours
    """Raised if Airflow reports a connection as missing for a while; nothing was sent.

    A secrets back-end in trouble reports the same for a moment, so a wait retries before this error.

    :param conn_id: id of the connection
    """

    def __init__(self, conn_id: str) -> None:
        super().__init__(
            f"The connection {conn_id!r} does not exist: correct vace_conn_id, or add the connection:"
            f" airflow connections add {conn_id} --conn-type vace --conn-host https://HOST --conn-port 443"
            " --conn-password KEY. Nothing was sent.",
            sent=False,
        )
        self.conn_id = conn_id


class VaceAPIError(VaceError):
    """Raised if the server refused a request: any status outside of 2xx, or an error with a status in a 200.

    Subclasses cover refusals with a remedy of their own kind. For all other statuses the message names the
    remedy: retry for 5xx, fix the input for 400 and 422, check ids for 404.

    :param status_code: HTTP status; for an error inside of a 200 the status in the body
    :param detail: the server's explanation, at most 500 characters, without secrets
    :param code: the server's error code, None if absent
    :param retry_after: seconds to wait before a retry, None if the server states no time
    :param invalid_fields: problem by name of the input
    :param is_from_api: False if the body is no JSON object with content, so that a proxy may have refused
    """

    def __init__(  # noqa: PLR0913 - all evidence of one response
        self,
        message: str,
        *,
        status_code: int,
        detail: str = "",
        code: str | None = None,
        retry_after: float | None = None,
        invalid_fields: dict[str, str] | None = None,
        is_from_api: bool = True,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.detail = detail
        self.code = code
        self.retry_after = retry_after
        self.invalid_fields = invalid_fields or {}
        self.is_from_api = is_from_api


class VaceAuthError(VaceAPIError):
    """Raised for 401, and for 403 unless the reason is credit: fix the connection's API key."""


class VaceBillingError(VaceAPIError):
    """Raised for 402, and for 4xx or 200 with a code for exhausted credit: top up the account."""


class VaceRateLimited(VaceAPIError):  # noqa: N818 - a contract of the public interface
    """Raised for 429: wait `retry_after` seconds (None if unknown), or limit concurrency with a pool."""


class VaceProtocolError(VaceError):
    """Raised if a response is not a prediction: HTML, invalid JSON, or another object.

    A wait polls again. After a create, check the vendor's list of predictions before a resubmit.

    :param status_code: HTTP status, None without a response
    :param body: excerpt of the body, without secrets
    :param is_truncated: True if the body may be the rest of a prediction: incomplete, or not text
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        body: str = "",
        is_truncated: bool = False,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.is_truncated = is_truncated


class SubmissionUnknown(VaceError):  # noqa: N818 - a contract of the public interface
    """Raised if a create got no clear response, so an unknown prediction may run and be billed.

    The API has no idempotency key, so the create is not repeated. Check the vendor's list of predictions
    first. The original error is chained.

    :param status_code: HTTP status, None without a response
    :param may_be_retried: True if a retry of the task can find the prediction, or if the DAG author allowed
        a resubmit
    """

    def __init__(self, message: str, *, status_code: int | None = None, may_be_retried: bool = False) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.may_be_retried = may_be_retried


class LedgerError(VaceError):
    """Raised if the record of earlier submissions cannot be read or written; nothing was submitted.

    An unreadable record is not an empty record, so the task does not submit. A retry reads the record again.
    """


class BudgetExceeded(VaceError):  # noqa: N818 - named like its neighbours
    """Raised before a create that would pass `max_cost`, or the cap of the DAG run; nothing was submitted.

    A retry cannot help: raise the cap. All amounts are in the currency of the price.

    :param spent: cost of ended predictions
    :param reserved: greatest expected cost of predictions that run, or may run
    :param wanted: greatest expected cost of the refused create
    :param cap: the limit
    """

    def __init__(
        self, message: str, *, spent: Decimal, reserved: Decimal, wanted: Decimal, cap: Decimal
    ) -> None:
        super().__init__(message)
        self.spent = spent
        self.reserved = reserved
        self.wanted = wanted
        self.cap = cap

    @property
    def may_fit_later(self) -> bool:
        """Return True if the create fits as soon as predictions that run cost less than reserved."""
        return self.reserved > 0 and self.spent + self.wanted <= self.cap


class BatchFailed(VaceError):  # noqa: N818 - named like the ends of a prediction
    """Raised if too few items of a batch have succeeded: a retry submits the failed items again."""


class VideoRejected(VaceError):  # noqa: N818 - named like the ends of a prediction
    """Raised for a video with problems, which is billed and saved, see `files`.

    With `checks="fail"` a retry cannot help, since the same video is the result. With `checks="regenerate"`
    the last allowed clip has problems too, or a cap has no room for another one.

    :param prediction: the last success, with saved files
    :param problems: a sentence for each problem of its video, with the value and the limit
    :param rejected: all rejected clips of the task, each `{"id", "seed", "uri", "problems"}`, and `cost` if
        known; empty with `checks="fail"`
    """

    def __init__(
        self,
        message: str,
        *,
        prediction: Prediction,
        problems: Sequence[str],
        rejected: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.prediction = prediction
        self.problems = tuple(problems)
        self.rejected = tuple(rejected)
        self.files = prediction.files


class PredictionError(VaceError):
    """Base class of errors for predictions that ended without a video.

    :param prediction: last known state
    """

    def __init__(self, message: str, *, prediction: Prediction) -> None:
        super().__init__(message)
        self.prediction = prediction

    @property
    def prediction_id(self) -> str:
        return self.prediction.id


class PredictionFailed(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised for the status `failed`: run the task again if `worth_another_run`, else change the input."""

    @property
    def worth_another_run(self) -> bool:
        return self.prediction.worth_another_run


class PredictionCanceled(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised for `canceled` (billed for its run time) and `aborted` (never started, not billed)."""


class PredictionExpired(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised if the server has deleted the files of a succeeded prediction; a new run is billed again."""


class PredictionTimeout(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised at the deadline of a prediction in progress: raise the timeout, or cancel."""
