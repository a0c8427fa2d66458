"""Everything that can go wrong, told apart by what the caller can do.

::

    VaceError
    ├── VaceInputError          the request would be wrong: nothing was sent; mend the named field
    ├── VaceTransportError      no answer: look again, or read `sent` before paying again
    │   └── VaceConnectionMissing   ... Airflow knows no such connection: correct `vace_conn_id`
    ├── VaceAPIError            the server refused: `status_code`, `detail`, `code` say why
    │   ├── VaceAuthError       ... the key or its permissions: mend the connection
    │   ├── VaceBillingError    ... no money: top up the account
    │   └── VaceRateLimited     ... too often: wait `retry_after` seconds
    ├── VaceProtocolError       the server answered, but not with a prediction
    ├── SubmissionUnknown       the create may have been accepted and billed: look before submitting anew
    ├── LedgerError             what the task has submitted before is not known: nothing was submitted
    └── PredictionError         the prediction ended without a video
        ├── PredictionFailed    ... the model or its host failed: `worth_another_run` says if again
        ├── PredictionCanceled  ... somebody, or a deadline, stopped it
        ├── PredictionExpired   ... it succeeded, but its files are gone
        └── PredictionTimeout   ... it was not final at the deadline

Catch :class:`VaceError` for all of them. Each message says what happened, to which prediction,
what it means for the bill and what to do next; the evidence stands in attributes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.prediction import Prediction


_E = TypeVar("_E", bound="VaceError")

# A query or fragment may sign the URL, user info may be a password, and a data: URL is the file itself.
# Of a text that was torn the beginning of an URL may be missing.
_PLACE = re.compile(r"://[^\s\"'<>]*")
_QUERY = re.compile(r"[?#]")
_SIGNATURE = re.compile(r"((?:signature|credential|token|sig)=)[^\s&\"'<>]+", re.IGNORECASE)
# User and password are also written without a scheme; `mailto:me@example.com` is an address, and
# `10:30@night` is a text.
_USER_INFO = (
    r"(?<![\w.%+-])(?!(?:mailto|sips?|xmpp|acct):[^:@]*@|\d{1,2}:\d{1,2}@)\w[\w.%+-]{0,200}"
    r":(?!//|\d{1,5}/)[^\s\"'<>]{1,200}@"
)
_CREDENTIALS = re.compile(_USER_INFO + r"(?=[\w\[])", re.IGNORECASE)
_CREDENTIALS_OF_PATH = re.compile(_USER_INFO + r"(?=[\w.-]{1,253}(?::\d{1,5})?/)", re.IGNORECASE)
# The query of an address without a scheme; a question mark in a text has no value behind it. The path's
# last segment ends at each slash and dot, so that a long text takes linear time.
_SIGNED_PATH = re.compile(r"([/.][^\s\"'<>?#/.]*)[?#][^\s\"'<>?=]{1,200}=[^\s\"'<>]*")
# A path with a query, as urllib3 names what it asked for.
_PARAMETER = re.compile(r"[?&][\w.~%-]{1,100}=")
_DATA = re.compile(r"(data:[\w.+/-]{0,100})[;,][^\s\"'<>]*", re.IGNORECASE)
# What logs and databases can't hold, or show as something else: controls, reversals, half characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def excerpt(text: str, limit: int = 500) -> str:
    """Return what of `text` may be shown: no signed URL, no password, no file, at most `limit` characters."""
    text = " ".join(text[: 50 * limit].split())
    text = _CREDENTIALS.sub("…@", without_signatures(_DATA.sub(r"\1;…", text)))
    text = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def without_signatures(text: str) -> str:
    """Return `text` with its URLs shortened to what names a place, without what opens it."""
    text = _SIGNED_PATH.sub(r"\1?…", _PLACE.sub(_named, text))
    return _SIGNATURE.sub(r"\1…", _CREDENTIALS_OF_PATH.sub("…@", text))


def is_showable(text: str) -> bool:
    """Return False if a text holds what an excerpt of it would hide: a password, or what signs a URL."""
    return without_signatures(text) == text and not (_CREDENTIALS.search(text) or _PARAMETER.search(text))


def _named(place: re.Match[str]) -> str:
    """Return of `://user:password@host/path?query` what names the place; another URL may be in its path."""
    path, *query = _QUERY.split(place[0], maxsplit=1)
    parts = (part.partition("/") for part in path.split("://"))
    bare = "://".join(host.rpartition("@")[2] + slash + rest for host, slash, rest in parts)
    return f"{bare}?…" if query else bare


class VaceError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Callable[..., VaceError], tuple[Any, ...]]:
        """Survive pickling although the evidence is keyword-only."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[_E], args: tuple[Any, ...], evidence: dict[str, Any]) -> _E:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(evidence)
    return error


class VaceInputError(VaceError, ValueError):
    """Raised before any request: `field` has a `value` that cannot work; `remedy` says what can."""

    def __init__(self, message: str, *, field: str, value: object = None, remedy: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.remedy = remedy


class VaceTransportError(VaceError):
    """Raised when no answer came; `sent` is False only if the server cannot have seen the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class VaceConnectionMissing(VaceTransportError):  # noqa: N818 - named like its neighbours
    """Raised when a wait has found no such connection for a while; nothing was sent.

    Secrets back-ends in trouble say the same for a moment, so a wait looks again before it gives up.
    `conn_id` is the connection's id.
    """

    def __init__(self, conn_id: str) -> None:
        super().__init__(
            f"The connection {conn_id!r} does not exist: correct vace_conn_id, or create the connection,"
            " of type vace, and run the task again. Nothing was sent.",
            sent=False,
        )
        self.conn_id = conn_id


class VaceAPIError(VaceError):
    """Raised when the server refused a request.

    `status_code` is HTTP's; `detail` and `code` are the server's words; `retry_after` is in seconds;
    `invalid_fields` maps names of inputs to what is wrong with them. `is_from_api` is False if the body is no
    JSON object: then a proxy on the way may have refused, and not the API.
    """

    def __init__(  # noqa: PLR0913 - evidence, all of it from one answer
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
    """Raised for 401, and for 403 unless it is about money: the key, or what it may do."""


class VaceBillingError(VaceAPIError):
    """Raised for 402, and wherever the code says that the quota is used up."""


class VaceRateLimited(VaceAPIError):  # noqa: N818 - a contract of the public interface
    """Raised for 429; `retry_after` is in seconds, None where the server named no time."""


class VaceProtocolError(VaceError):
    """Raised when an answer is not a prediction; `status_code` and `body` (an excerpt) show what came.

    `is_torn`: the body breaks off or is no text at all, so that it may be the remains of a prediction.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        body: str = "",
        is_torn: bool = False,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.is_torn = is_torn


class SubmissionUnknown(VaceError):  # noqa: N818 - a contract of the public interface
    """Raised when a create got no clear answer: a prediction may run, and be billed, all the same.

    There is no idempotency key in the API, so a create is never repeated after that.
    `status_code` is None when no answer came at all; the cause is chained. `may_be_retried`:
    another attempt of the task can find out, or its author has said that it shall submit again.
    """

    def __init__(self, message: str, *, status_code: int | None = None, may_be_retried: bool = False) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.may_be_retried = may_be_retried


class LedgerError(VaceError):
    """Raised when what a task has submitted before can't be read or written; nothing was submitted.

    Not to know is not the same as to know of nothing: another attempt reads it again.
    """


class PredictionError(VaceError):
    """Raised when a prediction brought no video; `prediction` is its last known state."""

    def __init__(self, message: str, *, prediction: Prediction) -> None:
        super().__init__(message)
        self.prediction = prediction

    @property
    def prediction_id(self) -> str:
        return self.prediction.id


class PredictionFailed(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised for the status `failed`; `worth_another_run` if the server's error says so."""

    @property
    def worth_another_run(self) -> bool:
        return self.prediction.worth_another_run


class PredictionCanceled(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised for `canceled` (billed until then) and `aborted` (never started, not billed)."""


class PredictionExpired(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised when a prediction succeeded and the server has deleted its files since."""


class PredictionTimeout(PredictionError):  # noqa: N818 - a contract of the public interface
    """Raised when the deadline passed before a final status."""
