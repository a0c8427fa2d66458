"""Links from a task to the prediction: page at the vendor, and video."""

from __future__ import annotations

__all__ = ("PredictionOutputLink", "PredictionPageLink")

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

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

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        prediction = _prediction_of(operator)
        return self.of(prediction, ti_key) if prediction else ""

    @staticmethod
    def of(prediction: Prediction, ti: Any = None) -> str:
        del ti
        return _web(prediction.urls.get("web"))


class PredictionOutputLink(BaseOperatorLink):
    """The saved video in Airflow; before a save, the video's address at the vendor.

    A saved video below `[vace] video_roots` is sent by the API server; for another file the link leads to the
    tab *Videos* of the run. The vendor deletes its file after an hour, and a signed address there gives no
    link: Airflow keeps links in a database, where a signature must not stand.
    """

    name = "Video"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        prediction = _prediction_of(operator)
        return self.of(prediction, ti_key) if prediction else ""

    @staticmethod
    def of(prediction: Prediction, ti: Any = None) -> str:
        """Return the address, relative to Airflow's for a saved video; empty without one.

        :param ti: task instance with `id`, `dag_id` and `run_id`; None gives no link to a saved video
        """
        if prediction.files:
            return _saved(prediction.files[0], ti) if ti is not None else ""
        return _web(next(iter(prediction.output_urls), None))


def _saved(file: dict[str, Any], ti: Any) -> str:
    """Return the path of a saved file at the API server, see :mod:`airflow_vace.ui.routes`."""
    from airflow.providers.common.compat.sdk import conf

    # Airflow may be served below a prefix, and the browser knows the host better than a worker.
    prefix = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    dag_id, run_id = quote(ti.dag_id, safe=""), quote(ti.run_id, safe="")
    instance = getattr(ti, "id", None)
    roots = conf.get("vace", "video_roots", fallback="") or ""
    if instance is not None and _is_below(roots, str(file.get("uri"))):
        return f"{prefix}/vace/runs/{dag_id}/{run_id}/files/{instance}/0"
    return f"{prefix}/dags/{dag_id}/runs/{run_id}/plugin/vace_videos"


def _is_below(roots: str, uri: str) -> bool:
    """Return True if the API server sends the file; the route itself resolves symbolic links."""
    from airflow_vace.storage.playable import type_of

    places = [_shown(root.strip()) for root in roots.split(",") if root.strip()]
    is_below = uri.removeprefix("file://").startswith(tuple(f"{place}/" for place in places))
    return is_below and type_of(uri) is not None


def _shown(root: str) -> str:
    """Return a root in the form of the address of a saved file, which names no connection."""
    scheme, separator, rest = root.removeprefix("file://").rstrip("/").rpartition("://")
    bucket, slash, folder = rest.partition("/")
    return f"{scheme}{separator}{bucket.rpartition('@')[2] if scheme else bucket}{slash}{folder}"


def _web(url: str | None) -> str:
    if url is None or not url.startswith(("https://", "http://")):
        return ""
    return url if url == unsigned(url) and not is_shortened(url) else ""


LINKS = (PredictionPageLink(), PredictionOutputLink())
