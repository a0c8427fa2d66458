"""Links from a task to the prediction: page at the vendor, and output."""

from __future__ import annotations

__all__ = ("PredictionOutputLink", "PredictionPageLink")

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_vace.redaction import is_shortened, unsigned

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction


def _prediction_of(operator: Any) -> Prediction | None:
    # Airflow computes links on the worker, after each leg, from the operator object that ran.
    prediction: Prediction | None = getattr(operator, "linked_prediction", None)
    return prediction


class PredictionPageLink(BaseOperatorLink):
    """Page of the prediction at the vendor (`urls.web`)."""

    name = "Prediction"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        prediction = _prediction_of(operator)
        return self.of(prediction) if prediction else ""

    @staticmethod
    def of(prediction: Prediction) -> str:
        return _web(prediction.urls.get("web"))


class PredictionOutputLink(BaseOperatorLink):
    """Address of the video at the vendor; empty for a signed address.

    Airflow keeps links in a database, where a signature must not stand. The vendor deletes the file after an
    hour.
    """

    name = "Video"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        prediction = _prediction_of(operator)
        return self.of(prediction) if prediction else ""

    @staticmethod
    def of(prediction: Prediction) -> str:
        return _web(next(iter(prediction.output_urls), None))


def _web(url: str | None) -> str:
    if url is None or not url.startswith(("https://", "http://")):
        return ""
    return url if url == unsigned(url) and not is_shortened(url) else ""


LINKS = (PredictionPageLink(), PredictionOutputLink())
