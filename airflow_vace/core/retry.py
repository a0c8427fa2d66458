"""The table of retries: after each class of error, the permission to send a call again, and the price.

The calls of this package, the wait, the ledger, downloads and Airflow's retries all read this table.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    BudgetExceeded,
    LedgerError,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceBillingError,
    VaceConnectionMissing,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)

CallName = Literal["create", "poll", "cancel", "list", "upload", "download"]

_GROWTH = 1.5
_JITTER = 0.2


class Failure(Enum):
    """The classes of errors, by type, status and body."""

    # VaceInputError: the request would be wrong, so none was sent.
    INVALID = auto()
    # Airflow knows no such connection; a secrets back-end in trouble looks alike.
    NO_CONNECTION = auto()
    # The request cannot have reached the server.
    UNSENT = auto()
    # The request was sent, and no whole answer came.
    NO_ANSWER = auto()
    # 429, unless the code says that the money is used up.
    RATE_LIMITED = auto()
    # 503 with a known gateway's code for "refused before anything was forwarded to the vendor".
    OVERLOADED = auto()
    # 503 of a gateway that has no channel for the model.
    NO_CHANNEL = auto()
    # 408, any other status from 500, and a proxy's word for a connection that ended early.
    SERVER_TROUBLE = auto()
    # The API's own JSON with such a status.
    BROKEN_OFF = auto()
    # 303: the request was carried out, and its result is elsewhere.
    SEE_OTHER = auto()
    # 3xx, or 4xx without the API's JSON object: a proxy or firewall on the way refuses.
    PROXY_REFUSAL = auto()
    KEY_REFUSED = auto()
    NO_MONEY = auto()
    NOT_FOUND = auto()
    # Any other 4xx.
    REFUSED = auto()
    # A whole answer that is not the expected JSON.
    UNREADABLE = auto()
    # An answer that breaks off, so it may be the rest of a prediction.
    TRUNCATED = auto()
    # A create got no clear answer; another attempt of the task can, or cannot, find out.
    SUBMISSION_LOOKED_UP_LATER = auto()
    SUBMISSION_UNKNOWN = auto()
    # The task state store could not be read or written.
    LEDGER = auto()
    # A file or object store failed.
    STORAGE = auto()
    # Any other error: the prediction's end, or a bug.
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The permission to send a call again after a failure, and the risk that the failure is billed.

    :param now: the same call may repeat the request after a pause
    :param later: another Airflow attempt of the task may
    :param may_be_billed: the server may have accepted the failed request, so a repetition may pay twice
    """

    now: bool = False
    later: bool = False
    may_be_billed: bool = False


AGAIN = Verdict(now=True, later=True)
# Repeated by this call up to its own limit or deadline; another attempt would meet the same error.
NOW = Verdict(now=True)
LATER = Verdict(later=True)
NEVER = Verdict()
# There is no idempotency key, so a create that may have been accepted is never repeated.
UNCLEAR = Verdict(may_be_billed=True)

_CALLS: tuple[CallName, ...] = ("create", "poll", "cancel", "list", "upload", "download")
_TABLE: dict[Failure, tuple[Verdict, ...]] = {
    #                                    create   poll   cancel  list  upload download
    Failure.INVALID:                    (NEVER,   NEVER, NEVER, NEVER, NEVER, NEVER),
    Failure.NO_CONNECTION:              (LATER,   AGAIN, NEVER, AGAIN, LATER, LATER),
    Failure.UNSENT:                     (AGAIN,   AGAIN, NOW,   AGAIN, AGAIN, AGAIN),
    Failure.NO_ANSWER:                  (UNCLEAR, AGAIN, NOW,   AGAIN, AGAIN, AGAIN),
    Failure.RATE_LIMITED:               (AGAIN,   AGAIN, NOW,   AGAIN, AGAIN, AGAIN),
    Failure.OVERLOADED:                 (AGAIN,   AGAIN, NOW,   AGAIN, AGAIN, AGAIN),
    Failure.NO_CHANNEL:                 (NEVER,   AGAIN, NOW,   AGAIN, AGAIN, AGAIN),
    Failure.SERVER_TROUBLE:             (UNCLEAR, AGAIN, NOW,   AGAIN, AGAIN, AGAIN),
    Failure.BROKEN_OFF:                 (UNCLEAR, NOW,   NOW,   AGAIN, AGAIN, AGAIN),
    Failure.SEE_OTHER:                  (UNCLEAR, NOW,   NEVER, AGAIN, NEVER, NEVER),
    Failure.PROXY_REFUSAL:              (NEVER,   AGAIN, NOW,   AGAIN, NEVER, NEVER),
    Failure.KEY_REFUSED:                (NEVER,   NOW,   NEVER, NEVER, NEVER, NEVER),
    Failure.NO_MONEY:                   (NEVER,   NOW,   NEVER, NEVER, NEVER, NEVER),
    Failure.NOT_FOUND:                  (NEVER,   NOW,   NEVER, AGAIN, NEVER, NEVER),
    Failure.REFUSED:                    (NEVER,   NOW,   NEVER, AGAIN, NEVER, NEVER),
    Failure.UNREADABLE:                 (UNCLEAR, NOW,   NEVER, AGAIN, NEVER, NEVER),
    Failure.TRUNCATED:                  (UNCLEAR, NOW,   NEVER, AGAIN, NEVER, NEVER),
    Failure.SUBMISSION_LOOKED_UP_LATER: (LATER,   NEVER, NEVER, NEVER, NEVER, NEVER),
    Failure.SUBMISSION_UNKNOWN:         (NEVER,   NEVER, NEVER, NEVER, NEVER, NEVER),
    Failure.LEDGER:                     (LATER,   LATER, NEVER, LATER, LATER, LATER),
    Failure.STORAGE:                    (NEVER,   LATER, NEVER, LATER, LATER, LATER),
    Failure.OTHER:                      (NEVER,   NEVER, NEVER, NEVER, NEVER, NEVER),
}  # fmt: skip


def verdict_of(error: BaseException, call: CallName) -> Verdict:
    """Return the permission to send a failed call again."""
    return _TABLE[failure_of(error)][_CALLS.index(call)]


def failure_of(error: BaseException) -> Failure:
    """Return the class of an error."""
    match error:
        case VaceInputError() | BudgetExceeded():
            return Failure.INVALID
        case VaceConnectionMissing():
            return Failure.NO_CONNECTION
        case VaceTransportError():
            return Failure.NO_ANSWER if error.sent else Failure.UNSENT
        case VaceAPIError():
            return _failure_of_refusal(error)
        case VaceProtocolError():
            return Failure.TRUNCATED if error.is_truncated else Failure.UNREADABLE
        case SubmissionUnknown():
            is_later = error.may_be_retried
            return Failure.SUBMISSION_LOOKED_UP_LATER if is_later else Failure.SUBMISSION_UNKNOWN
        case LedgerError():
            return Failure.LEDGER
        case OSError():
            return Failure.STORAGE
    return Failure.OTHER


def _failure_of_refusal(error: VaceAPIError) -> Failure:
    status = error.status_code
    if isinstance(error, VaceBillingError):
        return Failure.NO_MONEY if error.is_from_api else Failure.PROXY_REFUSAL
    if isinstance(error, VaceRateLimited):
        return Failure.RATE_LIMITED
    if status == 303:
        return Failure.SEE_OTHER
    if status in _EARLY_ENDS:
        return Failure.BROKEN_OFF if error.is_from_api else Failure.SERVER_TROUBLE
    if status < 500 and status != 408:
        return _failure_of_4xx(error)
    if status == 503 and error.code in _OVERLOADED:
        return Failure.OVERLOADED
    if says_no_channel(status, error.code, error.detail):
        return Failure.NO_CHANNEL
    return Failure.SERVER_TROUBLE


def _failure_of_4xx(error: VaceAPIError) -> Failure:
    if not error.is_from_api or error.status_code < 400:
        return Failure.PROXY_REFUSAL
    if isinstance(error, VaceAuthError):
        return Failure.KEY_REFUSED
    is_not_found = error.status_code in (404, 410) or says_not_found(error.code)
    return Failure.NOT_FOUND if is_not_found else Failure.REFUSED


# A failed dependency, and the ends of a connection at nginx (444, 499) and at AWS (460): the server behind
# may have accepted the request.
_EARLY_ENDS = (424, 444, 460, 499)
# new-api refuses with these before it has chosen a channel, so nothing was forwarded to a vendor. Words such
# as "busy" prove nothing: gateways also say so after a vendor has accepted.
# https://github.com/QuantumNous/new-api/blob/main/middleware/performance.go
_OVERLOADED = ("system_cpu_overloaded", "system_memory_overloaded", "system_disk_overloaded")
# The same, where no channel serves the model. one-api names no code, only its own type:
# https://github.com/QuantumNous/new-api/blob/main/middleware/distributor.go
# https://github.com/songquanpeng/one-api/blob/main/middleware/distributor.go
_NO_CHANNEL = "model_not_found"
_GATEWAY_TYPES = ("new_api_error", "one_api_error")
# new-api answers 400 with this code: https://github.com/QuantumNous/new-api/blob/main/relay/relay_task.go
_NOT_FOUND_CODE = re.compile(
    r"(?:task|prediction|job|video|record|resource|request|id)*(?:is|was|does)?"
    r"(?:not(?:exists?|found)|nosuch(?:task|prediction|job))(?:error|exception)?"
)


def says_no_channel(status: int, code: str | None, detail: str) -> bool:
    """Return True if a gateway refused a create because no channel serves the model."""
    is_worded = code in _GATEWAY_TYPES and "无可用渠道" in detail
    return status == 503 and (code == _NO_CHANNEL or is_worded)


def may_be_accepted(status: int) -> bool:
    """Return True if a create with this HTTP status may have been accepted, and billed."""
    return status in (303, 408, *_EARLY_ENDS) or status >= 500


def says_not_found(code: str | None) -> bool:
    """Return True if a code says that a prediction does not exist, such as new-api's `task_not_exist`."""
    letters = "".join(filter(str.isalpha, (code or "").lower()))
    return bool(_NOT_FOUND_CODE.fullmatch(letters))


def is_lasting(error: BaseException) -> bool:
    """Return True if only a person can remove the cause: input, key, permissions or money."""
    return failure_of(error) in (Failure.INVALID, Failure.KEY_REFUSED, Failure.NO_MONEY)


def is_not_found(error: BaseException) -> bool:
    """Return True if the API itself does not know the prediction."""
    return failure_of(error) is Failure.NOT_FOUND


def is_denial(error: BaseException) -> bool:
    """Return True if the API itself refuses a poll for a reason other than key or money.

    A denial counts only after repetition, see :func:`settling_limits`.
    """
    return failure_of(error) in (Failure.NOT_FOUND, Failure.REFUSED, Failure.BROKEN_OFF)


def is_file_gone(error: BaseException) -> bool:
    """Return True if a file host refuses a file: deleted, moved, or with an expired signature.

    File hosts answer in XML or HTML, hence the body is no evidence here.
    """
    return isinstance(error, VaceAPIError) and error.status_code in (403, 404, 410)


def settling_limits(failure: Failure, timing: Timing) -> tuple[int, float] | None:
    """Return the number of refusals in a row, and the seconds, after which a poll believes them.

    A single refusal proves nothing: keys are changed, replicas lag behind a create, and a secrets back-end
    fails for a moment. None stands for failures without an end.
    """
    limits = {
        Failure.KEY_REFUSED: (timing.max_auth_refusals, 0.0),
        Failure.NOT_FOUND: (timing.max_not_found, timing.not_found_grace_seconds),
        Failure.REFUSED: (timing.max_not_found, timing.not_found_grace_seconds),
        Failure.BROKEN_OFF: (timing.max_not_found, timing.not_found_grace_seconds),
        Failure.NO_MONEY: (timing.max_not_found, timing.not_found_grace_seconds),
        Failure.NO_CONNECTION: (timing.min_missing_connections, timing.missing_connection_grace_seconds),
    }
    return limits.get(failure)


def read_failed_create(error: VaceError) -> VaceError:
    """Return the error of a failed create for the caller: the same error if the refusal is certain.

    Time-outs, resets, 5xx and truncated answers may come after the server accepted, and become
    :class:`SubmissionUnknown`. A whole, unreadable answer keeps the error with the excerpt of the body.
    """
    if not verdict_of(error, "create").may_be_billed or failure_of(error) is Failure.UNREADABLE:
        return error
    return SubmissionUnknown(
        "The request for a new prediction got no clear answer. A prediction may be running under an unknown"
        " id, and be billed. The request is not sent again by itself: check the vendor's list of"
        f" predictions, and run the task again if the prediction is not there. The answer: {error}",
        status_code=getattr(error, "status_code", None),
    )


# --- pauses ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Backoff:
    """Growing pauses, from `min_retry_seconds` to `max_retry_seconds` or to `longest`.

    Jitter only shortens a pause, to keep the bound of a DAG author.
    """

    longest: float | None = None
    timing: Timing = field(default=Timing(), repr=False)
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        self.interval = min(self.timing.min_retry_seconds, self._most)

    @property
    def _most(self) -> float:
        if self.longest is None:
            return self.timing.max_retry_seconds
        return max(self.longest, self.timing.min_poll_interval_seconds)

    def next_delay(self, retry_after: float | None = None) -> float:
        """Return the seconds until the next try; at least the server's Retry-After, within a bound."""
        delay = self.interval * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter is no secret
        self.interval = min(self.interval * _GROWTH, self._most)
        return max(delay, min(retry_after or 0.0, self.timing.max_retry_after_seconds))

    def delay_after(self, error: BaseException) -> float:
        """Return the seconds until the next try after an error, perhaps with a Retry-After."""
        return self.next_delay(error.retry_after if isinstance(error, VaceAPIError) else None)


@dataclass(slots=True)
class CreateRetries:
    """The pauses of a create, within the limits of attempts and seconds."""

    timing: Timing = Timing()
    attempt: int = field(init=False, default=0)
    _backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._backoff = Backoff(timing=self.timing)

    def next_delay(self, error: BaseException, waited: float) -> float | None:
        """Return the seconds until a create is sent again; None for no further attempt.

        :param waited: seconds since the first request
        """
        self.attempt += 1
        if not verdict_of(error, "create").now:
            return None
        retry_after = error.retry_after if isinstance(error, VaceAPIError) else None
        if retry_after is None and isinstance(error, VaceRateLimited):
            retry_after = self.timing.min_retry_seconds
        delay = self._backoff.next_delay(retry_after)
        if retry_after and self.attempt == 1 and isinstance(error, VaceRateLimited):
            # All creates pause for a 429, so a short stated time must not become longer at once.
            delay = min(retry_after, self.timing.max_retry_after_seconds)
        is_over = self.attempt >= self.timing.max_create_attempts
        return None if is_over or waited + delay > self.timing.max_create_seconds else delay
