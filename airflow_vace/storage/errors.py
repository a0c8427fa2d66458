"""Judgements about errors of stores and downloads, in one place, and their wording."""

from __future__ import annotations

import errno

from airflow_vace.core.retry import CallName, verdict_of
from airflow_vace.exceptions import VaceAPIError, VaceRateLimited
from airflow_vace.redaction import excerpt

# These need a person: a local directory with one of them does not become writable by waiting.
PERMANENT_ERRNOS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def is_transient(error: Exception, call: CallName = "download") -> bool:
    """Return True if the same request may succeed later: no response, or a server in trouble."""
    return verdict_of(error, call).now


def is_transient_status(status: int) -> bool:
    """Return True if a store that refused its signed URL with this HTTP status may accept the URL later."""
    kind = VaceRateLimited if status == 429 else VaceAPIError
    return is_transient(kind("refused", status_code=status))


def is_permanent_write_error(error: Exception) -> bool:
    """Return True if a retry of a write to a store is useless: no permission, or no bucket."""
    return isinstance(error, PermissionError | FileNotFoundError)


def is_refusal(error: Exception) -> bool:
    """Return True if a store answered and denied access.

    Store libraries share no exception type: Google's carries `code`, aiohttp's `status`, Azure's
    `status_code`.
    """
    codes = {str(getattr(error, name, "")) for name in ("code", "status", "status_code")}
    return isinstance(error, PermissionError) or bool(codes & {"401", "403"})


def describe_error(error: Exception) -> str:
    """Return type and message of a third-party error, without secrets, in at most 300 characters."""
    return excerpt(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 300)


def store_error(problem: str, error: Exception) -> OSError:
    """Wrap a third-party error into an `OSError` that explains the problem and keeps the errno.

    :param problem: the sentence in front of the error's own message
    :param error: the cause; without an errno the result has EIO
    """
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    return OSError(number, f"{problem} ({describe_error(error)})")
