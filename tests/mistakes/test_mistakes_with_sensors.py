"""Mistakes in the references and parameters of sensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.mistakes import Mistake, Scene, row

if TYPE_CHECKING:
    from collections.abc import Callable


def _sense(prediction: Any, **kwargs: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.sense(prediction, **kwargs)


def _other_account(scene: Scene) -> object:
    """Wait for a prediction that another account has submitted."""
    from airflow_vace.emulator import Emulator

    payload = scene.submit()
    with Emulator() as other:
        scene.connect_as(other.connection)
        return scene.sense(payload)


PAYLOAD = ("which is no prediction", "`submit.output`", "a prediction's id")
UNKNOWN = ("404", "check the id", "another account")
PARSED: dict[str, Any] = {"outcome": "import error"}
MISTAKES = (
    row("None as prediction", _sense(None), "prediction is None", "xcom_pull", *PAYLOAD),
    row("an empty prediction", _sense(""), "prediction is ''", "xcom_pull", *PAYLOAD),
    row(
        "a prediction from a task without a value",
        _sense("{{ ti.xcom_pull(task_ids='clip') }}"),
        *("prediction is 'None'", "check the task_ids", "xcom_pull", *PAYLOAD),
    ),
    row("an id with a blank", _sense("my prediction"), "'my prediction'", *PAYLOAD),
    row("the URL of a video", _sense("https://a.example/a.mp4"), "'https://a.example/a.mp4'", *PAYLOAD),
    row("a dict without id", _sense({"status": "starting"}), "{'status': 'starting'}", *PAYLOAD),
    row("a list of payloads", _sense([{"id": "abc"}]), "[{'id': 'abc'}]", *PAYLOAD),
    row("True as prediction", _sense(True), "prediction is True", *PAYLOAD),
    row("an unknown id", _sense("abcdefghijklmnop1234567890"), "abcdefghijklmnop1234567890", *UNKNOWN),
    row("the address of another host", _sense("https://a.invalid/v1/predictions/abc123"), "abc123", *UNKNOWN),
    row("the payload of another account", _other_account, *UNKNOWN, posts=1, billed=1),
    row("`checks='regenerate'`", _sense("a", checks="regenerate"), "'regenerate'", "checks='fail'", **PARSED),
    row("`checks` without `save_to`", _sense("a", checks="fail"), "checks need save_to", **PARSED),
    row(
        "a negative `poke_interval`",
        _sense("a", poke_interval=-1),
        "`poke_interval`",
        "non-negative",
        **PARSED,
    ),
    row(
        "`poke_interval` in words",
        _sense("a", poke_interval="a minute"),
        "`poke_interval`",
        "timedelta",
        **PARSED,
    ),
    row("a negative `timeout`", _sense("a", timeout=-1), "`timeout`", "non-negative", **PARSED),
    row("an unknown `mode`", _sense("a", mode="defer"), "'defer'", "'poke', 'reschedule'", **PARSED),
    row(
        "`start_from_trigger` alone", _sense("a", start_from_trigger=True), "needs deferrable=True", **PARSED
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_in_a_sensor_is_explained(mistake: Mistake, explain: Any) -> None:
    explain(mistake)
