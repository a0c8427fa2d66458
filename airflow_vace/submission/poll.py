"""Polls of a prediction that an earlier attempt has submitted."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from airflow_vace.core.retry import Backoff, is_denial, is_lasting
from airflow_vace.core.wait import Final, GiveUp, PollAgain, Wait
from airflow_vace.exceptions import LedgerError, VaceError
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.submission.decision import Gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.hooks import VaceHook


class EarlierPrediction:
    """Polls a prediction of an earlier attempt.

    :param files_saved: returns the files of a prediction's id at their final places, None without files
    :param log: the task's log
    """

    def __init__(
        self, hook: VaceHook, files_saved: Callable[[str], list[dict[str, Any]] | None], log: Any
    ) -> None:
        self.hook = hook
        self.files_saved = files_saved
        self.log = log

    def poll(self, prediction: Prediction) -> Prediction | Gone:
        """Return the latest state; a prediction with saved files has succeeded, whatever the server says.

        :raises LedgerError: if the state stays unknown; a retry polls again
        :raises VaceError: for a rejected key, an empty account or an unusable connection
        """
        backoff = Backoff(timing=self.hook.timing)
        for polls in count(1):
            latest = self._request(prediction)
            if not isinstance(latest, Prediction) or latest.data_removed or prediction.data_removed:
                break
            if not latest.has_expired_at(self.hook.clock.confirmed(self.hook.wall_clock())):
                return latest
            if polls >= self.hook.timing.max_output_polls:
                break
            # The output may lag behind the status, and a time without zone misleads, so one poll proves
            # no expiry.
            time.sleep(backoff.next_delay())
        files = self.files_saved(prediction.id)
        if not files:
            return latest
        self.log.info("Prediction %s is saved: its files are at save_to", prediction.id)
        known = latest if isinstance(latest, Prediction) else prediction
        return replace(known, status=PredictionStatus.SUCCEEDED, files=files, data_removed=True, error=None)

    def _request(self, prediction: Prediction) -> Prediction | Gone:
        """Request the state, and repeat the request while the server is in trouble."""
        now, timing = self.hook.wall_clock, self.hook.timing
        wait = Wait(prediction=prediction, deadline=now() + timing.max_trouble_seconds, timing=timing)
        while True:
            try:
                latest = self.hook.get_prediction(prediction)
            except VaceError as error:
                decision = wait.failed(error, now())
                if isinstance(decision, GiveUp):
                    return self._given_up(prediction, decision.error, error)
            else:
                # A confused cache may answer with another prediction, which must lead to no new payment.
                decision = wait.answered(latest, now())
                if not latest.status.is_final or isinstance(decision, Final):
                    return prediction.updated(latest)
                if isinstance(decision, GiveUp):
                    return self._given_up(prediction, decision.error, decision.error)
            if wait.news:
                self.log.warning("%s", wait.news)
            if isinstance(decision, PollAgain):
                time.sleep(decision.seconds)

    def _given_up(self, prediction: Prediction, reason: VaceError, last: VaceError) -> Gone:
        """Return the API's denial of a prediction; raise for any other end of the polls.

        :param reason: the wait's reason for its end
        :param last: the error of the last poll
        """
        if reason is last and is_denial(last):
            return Gone(error=last)
        if is_lasting(last):
            raise last
        # Unknown is not failure: a new create here could pay twice.
        raise LedgerError(
            f"The state of prediction {prediction.id} could not be determined: {last} Nothing was submitted"
            " since; a retry polls again."
        ) from last
