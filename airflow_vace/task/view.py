"""What a task leaves in its XCom for whoever looks at it while it runs, or after it has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.prediction import Prediction

KEY = "vace_view"
_LONGEST_ERROR = 2000


def view_of(
    prediction: Prediction | None, vace_conn_id: str, values: object, error: BaseException | None
) -> dict[str, Any]:
    """Return `{prediction, vace_conn_id, input, error}`.

    A payload, if there is one; the input without files and signatures; what the task failed with.
    """
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

    from airflow_vace.redaction import without_secrets

    known: Mapping[str, Any] = values if isinstance(values, dict) else {}
    return {
        "prediction": None if prediction is None else prediction.payload(),
        "vace_conn_id": vace_conn_id,
        "input": without_secrets(dict(known), redact),
        "error": None if error is None else without_secrets(str(error), redact)[:_LONGEST_ERROR],
    }
