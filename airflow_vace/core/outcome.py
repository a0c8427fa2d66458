"""The ends of a prediction: an error for each end except a success with output."""

from __future__ import annotations

from airflow_vace.exceptions import (
    PredictionCanceled,
    PredictionExpired,
    PredictionFailed,
    PredictionTimeout,
    VaceError,
    VaceProtocolError,
)
from airflow_vace.prediction import Prediction, PredictionStatus

_OUT_OF_MEMORY = "E1001"


def timed_out(prediction: Prediction, error: VaceError | None = None) -> PredictionTimeout:
    """Return the error for a prediction without a terminal status at the deadline."""
    last = f" The last poll failed: {error}" if error else ""
    return PredictionTimeout(
        f"Prediction {prediction.id} was still {prediction.status} at its deadline. {prediction.bill}"
        f" Raise the timeout, or cancel it.{last}",
        prediction=prediction,
    )


def read_end(prediction: Prediction, now: float | None = None) -> Prediction:
    """Return a successful prediction with output; raise for any other end.

    :param now: seconds since the epoch, by the server's clock (default: this machine's)
    :raises PredictionFailed: for `failed`
    :raises PredictionCanceled: for `canceled` and `aborted`
    :raises PredictionExpired: if it succeeded and its files have been deleted since
    :raises VaceProtocolError: if it succeeded without any output
    """
    said = f": {prediction.error.rstrip('.')}" if prediction.error else ", without a reason"
    word = f" (in the server's words {prediction.status_word!r})" if prediction.status_word else ""
    match prediction.status:
        case PredictionStatus.FAILED:
            advice = "Change the input before another run."
            if prediction.error_code == _OUT_OF_MEMORY or "out of memory" in (prediction.error or "").lower():
                advice = "The model ran out of memory: choose a smaller size or fewer frames (frame_num)."
            elif prediction.worth_another_run or not prediction.error:
                # A failure without a reason says nothing against the input.
                advice = "Another run with the same input may succeed."
            raise PredictionFailed(
                f"Prediction {prediction.id} failed{word}{said}. {prediction.bill} {advice}",
                prediction=prediction,
            )
        case PredictionStatus.CANCELED | PredictionStatus.ABORTED:
            raise PredictionCanceled(
                f"Prediction {prediction.id} was {prediction.status}{word} by somebody or by its deadline."
                f" {prediction.bill} Run it again if the video is still wanted.",
                prediction=prediction,
            )
    if prediction.has_expired if now is None else prediction.has_expired_at(now):
        raise PredictionExpired(
            f"Prediction {prediction.id} succeeded, but its files have been deleted: they live for an"
            f" hour. {prediction.bill} Save them in time with save_to, and submit it again.",
            prediction=prediction,
        )
    if not prediction.has_output and not prediction.files:
        raise VaceProtocolError(
            f"Prediction {prediction.id} succeeded, but brought no output. {prediction.bill} See"
            f" {prediction.urls.get('web', 'it at the vendor')}, and ask the vendor for the money back.",
        )
    return prediction
