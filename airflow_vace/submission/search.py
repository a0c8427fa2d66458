"""The search for a lost create in the back-end's list of predictions."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.core.retry import Backoff, is_lasting, is_not_found
from airflow_vace.exceptions import SubmissionUnknown, VaceError
from airflow_vace.submission.connections import (
    account_of,
    hook_of,
    leads_to_account_of,
)
from airflow_vace.submission.decision import Listed

if TYPE_CHECKING:
    from airflow_vace.core.responses import Page
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.record import Record


# `Date` has whole seconds, so two answers give slightly different offsets.
_MAX_JITTER = timedelta(seconds=60)


class CreateSearch:
    """Searches the list of predictions for creates without a response.

    :param hook: the hook of this attempt's connection
    :param log: the task's log
    """

    def __init__(self, hook: VaceHook, log: Any) -> None:
        self.hook = hook
        self.log = log

    def search(self, intent: Record) -> Listed:
        """Poll the list until the create is found, or has had enough time to arrive.

        :raises SubmissionUnknown: if the list stays unreadable; a retry searches again
        :raises VaceError: for a rejected key, an empty account or an unusable connection
        """
        lister = self._lister_of(intent)
        if isinstance(lister, Listed):
            return lister
        self.log.info("Searching the back-end's list of predictions for the lost request")
        grace = self._seconds_to_arrive(intent)
        max_trouble = self.hook.timing.max_trouble_seconds
        began, is_list_missing = time.monotonic(), False
        backoff = Backoff(timing=self.hook.timing)
        while True:
            elapsed = time.monotonic() - began
            since = _listed_from(intent, lister)
            try:
                pages = list(lister.list_pages(since.isoformat()))
            except VaceError as error:
                if is_lasting(error):
                    raise
                if is_not_found(error) and is_list_missing:
                    return Listed(found=None)
                # A proxy in trouble may answer one request with 404, so only a second 404 counts.
                is_list_missing = is_list_missing or is_not_found(error)
                if elapsed >= max_trouble:
                    raise _unsearchable(intent, error) from error
                self.log.warning("The list of predictions could not be read: %s", error)
            else:
                listed = self._listed(intent, pages)
                # The list's answer may be the first with the server's time, so the start may have been wrong.
                is_complete = since - _listed_from(intent, lister) <= _MAX_JITTER
                # A list may lag behind a create, so an early list without the prediction proves nothing.
                if listed.found or (elapsed >= grace and is_complete):
                    return listed
            time.sleep(backoff.next_delay())

    def _seconds_to_arrive(self, intent: Record) -> float:
        """Return the seconds after which a missing create counts as never accepted."""
        timing = self.hook.timing
        age = self.hook.wall_clock() - datetime.fromisoformat(intent.intended_at).timestamp()
        # A wrong clock may show a negative age, so the grace has an upper bound.
        remaining = min(timing.intent_grace_seconds - age, timing.intent_grace_seconds)
        return max(timing.lost_create_lookup_seconds, remaining)

    def _lister_of(self, intent: Record) -> VaceHook | Listed:
        """Return a hook that lists the predictions of the create's server, or the reason for none."""
        hook = hook_of(intent, self.hook)
        try:
            if intent.origin not in (None, account_of(hook).origin):
                why = f"the connection {intent.conn_id!r} led to {intent.origin} then, and elsewhere now"
                return Listed(found=None, why=why)
            return hook if hook.lists_predictions else Listed(found=None)
        except AirflowNotFoundException:
            why = f"the connection {intent.conn_id!r}, over which it was sent, does not exist any more"
            return Listed(found=None, why=why)

    def _listed(self, intent: Record, pages: list[Page]) -> Listed:
        """Return the pages' evidence about a lost create; only the same account can deny the create."""
        matches = [(found, intent.is_of(found)) for page in pages for found in page.predictions]
        found = tuple(prediction for prediction, is_match in matches if is_match)
        if found or leads_to_account_of(intent, self.hook):
            may_be = any(intent.may_be(item) for page in pages for item in page.unreadable)
            return Listed(found=found, is_unclear=may_be or any(match is None for _, match in matches))
        why = (
            f"the key of the connection {intent.conn_id!r} was changed since: its account may be another one"
        )
        return Listed(found=None, why=why)


def _listed_from(intent: Record, hook: VaceHook) -> datetime:
    """Return the time from which the list is read, in the server's time."""
    since = datetime.fromisoformat(intent.listed_from)
    # A worker's clock that is ahead dates the intent after the create, so its lead is subtracted.
    lead = -(hook.clock.offset or 0.0)
    # Another worker may have dated the intent, and only a date in the future shows that clock's lead.
    now = hook.clock.at_server(hook.wall_clock())
    lead = max(lead, datetime.fromisoformat(intent.intended_at).timestamp() - now, 0.0)
    return since - timedelta(seconds=lead)


def _unsearchable(intent: Record, error: VaceError) -> SubmissionUnknown:
    return SubmissionUnknown(
        f"The result of the request for a prediction of {intent.intended_at} could not be looked up: {error}"
        " Nothing was submitted since; a retry searches again.",
        may_be_retried=True,
    )
