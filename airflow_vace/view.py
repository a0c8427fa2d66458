"""What a task leaves in its XCom for whoever looks at it while it runs, or after it has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.prediction import Prediction

KEY = "vace_view"
_LONGEST_TEXT = 2000


def view_of(prediction: Prediction, vace_conn_id: str, values: object) -> dict[str, Any]:
    """Return `{prediction, vace_conn_id, input}`: a payload, and the input without files and signatures."""
    from airflow_vace.media.destination import without_secrets

    known: Mapping[str, Any] = values if isinstance(values, dict) else {}
    shown = {
        name: value[:_LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in without_secrets(dict(known)).items()
    }
    return {"prediction": prediction.payload(), "vace_conn_id": vace_conn_id, "input": shown}
