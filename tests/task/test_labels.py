"""Label and map index in payload, manifest and event, in every mode and for pairs."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task

from airflow_vace.decorators import vace_task
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.attempts import MODES, billed, waiting
from support.attempts import task as submitting
from support.runs import run, states, xcom
from support.supervisor import DONE, HERE, Supervisor, begun, events_of, needs_airflow_3_3
from support.tasks import Run

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

SENSORS = pytest.mark.parametrize(
    "mode",
    [
        {"deferrable": False, "poke_interval": 0.05},
        {"deferrable": False, "poke_interval": 0.05, "mode": "reschedule"},
        {"deferrable": True},
    ],
    ids=["poke", "reschedule", "deferrable"],
)


def whose(payload: Any) -> tuple[Any, Any, Any]:
    return payload["label"], payload["map_index"], payload["seed"]


# --- the operator ----------------------------------------------------------------------------------


@MODES
def test_payload_manifest_and_view_have_the_label(
    fast_emulator: Emulator, tmp_path: Path, *, deferrable: bool
) -> None:
    made = waiting(
        input={"prompt": "a fox", "seed": 7},
        label="Trail shoe",
        save_to=f"{tmp_path}/",
        deferrable=deferrable,
    )
    made.ti.map_index = 3
    assert whose(made.result()) == ("Trail shoe", 3, 7)
    assert whose(made.ti.xcoms["vace_view"]["prediction"]) == ("Trail shoe", 3, 7)
    (manifest,) = (json.loads(path.read_text()) for path in tmp_path.rglob("*.json"))
    assert (manifest["label"], manifest["map_index"], manifest["seed"]) == ("Trail shoe", 3, 7)
    assert billed(fast_emulator) == 1


def test_a_task_without_a_wait_returns_label_and_drawn_seed(slow_emulator: Emulator) -> None:
    payload = submitting(label="Head lamp").result()
    (sent,) = slow_emulator.world.runs.values()
    assert whose(payload) == ("Head lamp", None, sent.input["seed"])


@pytest.mark.usefixtures("slow_emulator")
@pytest.mark.parametrize("label", [None, ""])
def test_a_task_without_a_label_says_so(label: str | None) -> None:
    assert submitting(input={"prompt": "a fox", "seed": 7}, label=label).result()["label"] is None


@pytest.mark.usefixtures("slow_emulator")
def test_a_label_is_any_value_as_text_and_holds_no_signature() -> None:
    assert submitting(label=5).result()["label"] == "5"
    assert submitting(label="a\x00\ud83d").result()["label"] == "a?"
    assert submitting(label="https://a/b.png?sig=SECRET").result()["label"] == "https://a/b.png?…"


def test_a_label_never_comes_from_a_server(slow_emulator: Emulator) -> None:
    slow_emulator.faults.add(
        method="GET", path="*/predictions*", patch={**DONE, "label": "theirs", "map_index": 9, "seed": 9}
    )
    payload = waiting(input={"prompt": "a fox", "seed": 7}, deferrable=False).result()
    assert whose(payload) == (None, None, 7)


# --- the sensor ------------------------------------------------------------------------------------


@SENSORS
@pytest.mark.parametrize("form", [dict, str], ids=["payload", "text"])
@pytest.mark.usefixtures("fast_emulator")
def test_a_sensor_passes_label_and_seed_on(mode: dict[str, Any], form: Any) -> None:
    payload = submitting(input={"prompt": "a fox", "seed": 7}, label="Trail shoe").result()
    waited = Run(partial(VacePredictionSensor, task_id="t", prediction=form(payload), **mode))
    waited.ti.map_index = 1
    assert whose(waited.result()) == ("Trail shoe", 1, 7)


@SENSORS
@pytest.mark.usefixtures("fast_emulator")
def test_a_sensors_own_label_comes_first(mode: dict[str, Any], tmp_path: Path) -> None:
    payload = submitting(label="Trail shoe").result()
    make = partial(
        VacePredictionSensor, task_id="t", prediction=payload, label="mine", save_to=f"{tmp_path}/", **mode
    )
    assert Run(make).result()["label"] == "mine"
    (manifest,) = (json.loads(path.read_text()) for path in tmp_path.rglob("*.json"))
    assert manifest["label"] == "mine"


@needs_airflow_3_3
@pytest.mark.parametrize(("label", "expected"), [(None, "Trail shoe"), ("mine", "mine")])
def test_a_sensor_that_begins_and_ends_in_the_triggerer_says_whose(
    slow_emulator: Emulator, supervisor: Supervisor, label: str | None, expected: str
) -> None:
    payload = submitting(input={"prompt": "a fox", "seed": 7}, label="Trail shoe").result()
    slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE, times=None)
    with DAG("d", schedule=None) as dag:
        VacePredictionSensor(task_id="plain", prediction=payload, label=label, **HERE)
        mapped = VacePredictionSensor.partial(task_id="mapped", label=label, **HERE)
        mapped.expand(prediction=["abc", payload])
    for task_id, index in (("plain", -1), ("mapped", 1)):
        assert events_of(*begun(dag, task_id, index)).task_instance_state == "success"
        assert whose(supervisor.left["return_value"]) == (expected, None if index < 0 else index, 7)


@needs_airflow_3_3
@pytest.mark.usefixtures("slow_emulator", "supervisor")
@pytest.mark.parametrize("more", [{"label": "{{ x }}"}, {"map_index_template": "{{ x }}"}], ids=str)
def test_a_label_that_is_a_template_begins_on_a_worker(more: dict[str, Any]) -> None:
    with DAG("d", schedule=None) as dag:
        VacePredictionSensor.partial(task_id="mapped", **HERE, **more).expand(prediction=["abc"])
    event = events_of(*begun(dag, "mapped", 0))
    assert event.payload == {"execute": "its label is a template"}
    with DAG("d", schedule=None):
        assert not VacePredictionSensor(
            task_id="plain", prediction="abc", label="{{ x }}", **HERE
        ).start_from_trigger


# --- a run in which one of several fails -----------------------------------------------------------

PRODUCTS = ["Trail shoe", "Rain jacket", "Head lamp", "Sun hat"]


@task(trigger_rule="all_done")
def paired(clips: list[Any]) -> dict[str, str]:
    return {clip["label"]: clip["id"] for clip in clips}


@pytest.mark.usefixtures("airflow_db")
def test_pairs_are_right_although_some_clips_fail(fast_emulator: Emulator) -> None:
    with DAG("pairs", schedule=None) as dag:

        @task
        def products() -> list[str]:
            return PRODUCTS

        @task.vace(
            wait_for_completion=True, deferrable=False, map_index_template="{{ task.op_kwargs['name'] }}"
        )
        def clip(name: str) -> dict[str, Any]:
            return {"prompt": name, "frame_num": "no number" if name == PRODUCTS[0] else 81}

        submit = VacePredictionOperator.partial(task_id="submit").expand_kwargs(
            products().map(
                lambda name: {
                    "input": {"prompt": name, "frame_num": "no number" if name == "Rain jacket" else 81},
                    "label": name,
                }
            )
        )
        wait = VacePredictionSensor.partial(
            task_id="wait", deferrable=False, poke_interval=0.1, trigger_rule="all_done"
        ).expand(prediction=submit.output)
        paired(clip.expand(name=products()))  # type: ignore[arg-type]
        paired(wait.output)  # type: ignore[arg-type]
    found = run(dag)
    assert [states(found)["clip", n] for n in range(4)] == ["failed", "success", "success", "success"]
    assert states(found)["submit", 1] == "failed"
    prompts = {made.id: made.input["prompt"] for made in fast_emulator.world.runs.values()}
    for task_id, names in (("paired", PRODUCTS[1:]), ("paired__1", [PRODUCTS[0], *PRODUCTS[2:]])):
        pairs = xcom(found, task_id)
        assert {name: prompts[made] for name, made in pairs.items()} == {name: name for name in names}


def test_a_template_that_needs_what_the_function_sets_is_rendered_after_it(slow_emulator: Emulator) -> None:
    def clip(**context: Any) -> str:
        context["ti"].product = "Trail shoe"
        return "a shoe"

    def make() -> Any:
        with DAG("d", schedule=None):
            parameters: dict[str, Any] = {
                "map_index_template": "{{ ti.product }}",
                "wait_for_completion": True,
            }
            made: Any = vace_task(deferrable=True, **parameters)(clip)()
            return made.operator

    def end() -> None:
        del vars(made.ti)["product"]  # the process that goes on knows nothing of it
        slow_emulator.faults.add(method="GET", path="*/predictions*", patch=DONE, times=None)

    made = Run(make)
    assert made.result(between=end)["label"] == "Trail shoe"
    assert len(made.deferred) == 1
