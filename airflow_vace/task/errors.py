"""Errors for Airflow: retried unchanged, or final as AirflowFailException."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.core.retry import verdict_of
from airflow_vace.exceptions import VaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def translated(may_retry: Callable[[Exception], bool] = lambda _: False) -> Iterator[None]:
    """Raise AirflowFailException in place of errors without a retry.

    :param may_retry: returns True for an error that Airflow should retry, and see as raised
    """
    try:
        yield
    except (VaceError, OSError) as error:
        if may_retry(error):
            raise
        raise AirflowFailException(str(error)) from error


def can_poll_later(error: Exception) -> bool:
    """Return True if another poll or save, both free, may succeed."""
    return verdict_of(error, "poll").later


def can_submit_later(error: Exception) -> bool:
    """Return True if a retry may succeed and cannot pay twice."""
    return verdict_of(error, "create").later
