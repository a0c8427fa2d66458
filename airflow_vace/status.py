"""Statuses of predictions, and the words of gateways for each status.

Replicate documents six words: https://replicate.com/docs/topics/predictions/lifecycle. Gateways pass on the
words of other vendors, in any case and with blanks, dashes or underscores.
"""

from __future__ import annotations

import re
from enum import StrEnum

from airflow_vace.redaction import excerpt

_SEPARATORS = re.compile(r"[\s_.-]+")
# `TASK_STATUS_SUCCEED`, `JOB_STATE_RUNNING`: the name of the enumeration stands before the word.
_PREFIXES = ("task", "job", "run", "prediction", "generation", "video", "status", "state")


class PredictionStatus(StrEnum):
    """Status of a prediction.

    A gateway's word becomes the member that the word stands for. A word for success is no proof of an end,
    see :func:`status_of`. An unknown word becomes a member with `is_known` False, which is never terminal.
    """

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
        if meaning := _MEANINGS.get(_plain(word)):
            return cls(meaning)
        # An unknown status must not end a wait with an error, so a new member keeps the server's word.
        unknown = str.__new__(cls, excerpt(word, 60))
        unknown._name_ = "UNKNOWN"
        unknown._value_ = str(unknown)
        return unknown

    @property
    def is_final(self) -> bool:
        """Return True if the status is terminal."""
        return self in _TERMINAL

    @property
    def is_known(self) -> bool:
        """Return True if the status is one of the six members."""
        return self._name_ != "UNKNOWN"

    @property
    def is_unproven_success(self) -> bool:
        """Return True for a gateway's word for success that came without a result."""
        return not self.is_known and says_success(self)


_TERMINAL = frozenset(
    {
        PredictionStatus.SUCCEEDED,
        PredictionStatus.FAILED,
        PredictionStatus.CANCELED,
        PredictionStatus.ABORTED,
    }
)

# Envelopes say "success" about the request while the prediction runs, so these words need a result beside.
_SUCCESS_WORDS = frozenset(
    {
        *("completed", "complete", "completion", "success", "successful", "succeed"),
        *("done", "finished", "finish", "ready", "ok", "okay", "end", "ended", "finalized", "finalised"),
        *("processed", "generated", "rendered", "delivered", "published", "available", "resolved"),
        *("partialsuccess", "partiallysucceeded", "succeededwithwarnings", "completedwitherrors"),
    }
)
_WORDS = {
    "starting": "starting start queued queue queueing inqueue pending notstart notstarted submitted created"
    " waiting wait scheduled accepted received initializing initialized booting preparing new",
    "processing": "processing process inprogress progress running executing generating rendering started"
    " working active inference loading uploading downloading postprocessing retrying",
    "succeeded": "succeeded",
    "failed": "failed failure fail error errored expired timeout timedout rejected crashed moderated"
    " contentmoderated requestmoderated moderationfailed contentfiltered nsfw censored banned blocked refused"
    " denied unsuccessful exception crash dead deadletter interrupted failedpermanently",
    "canceled": "canceled cancelled cancel usercanceled usercancelled stopped terminated killed revoked",
    "aborted": "aborted",
}
_MEANINGS = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}


def says_success(word: str) -> bool:
    """Return True for any word that stands for a success."""
    plain = _plain(word)
    return plain in _SUCCESS_WORDS or _MEANINGS.get(plain) == "succeeded"


def status_of(word: str, *, has_output: bool, has_error: bool, has_ended: bool) -> PredictionStatus:
    """Return the status that a server's word stands for, beside the other members of a response.

    A gateway's word for success counts only beside an output, an error or a time of the end, and an unknown
    word only with a time of the end, beside an output or an error.

    :param has_output: the response has an output
    :param has_error: the response has an error with a reason
    :param has_ended: the response has the time of the end
    """
    status = PredictionStatus(word)
    if status.is_known or not (says_success(status) or (has_ended and (has_output or has_error))):
        return status
    if has_output:
        return PredictionStatus.SUCCEEDED
    if has_error:
        return PredictionStatus.FAILED
    return PredictionStatus.SUCCEEDED if has_ended else status


def _plain(word: str) -> str:
    """Return a word in small letters without separators and without the name of an enumeration."""
    parts = _SEPARATORS.split(word.strip().lower())
    while len(parts) > 1 and parts[0] in _PREFIXES:
        del parts[0]
    return "".join(parts)
