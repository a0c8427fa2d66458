"""Links from a task to its prediction: its page at the vendor, and its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_vace.redaction import is_shortened, unsigned

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction


def _prediction_of(operator: Any) -> Prediction | None:
    # Links are worked out on the worker, on the very operator that ran, after each leg of its way.
    prediction: Prediction | None = getattr(operator, "linked_prediction", None)
    return prediction


class PredictionPageLink(BaseOperatorLink):
    """The prediction's page at the vendor (`urls.web`)."""

    name = "Prediction"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        prediction = _prediction_of(operator)
        return self.of(prediction) if prediction else ""

    @staticmethod
    def of(prediction: Prediction) -> str:
        return _web(prediction.urls.get("web"))


class PredictionOutputLink(BaseOperatorLink):
    """The video, at the vendor, as long as it lives there; empty if its address is signed.

    Airflow keeps links in its database, and a signature must not stand there.
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
