"""Fields as DAGs bring them: missing params, native rendering, other types, lazy results."""

from __future__ import annotations

from collections import UserDict
from datetime import timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_vace.decorators import vace_task
from airflow_vace.exceptions import VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.inputs import FIELDS
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.task.fields import without_missing
from support.runs import run, states, xcom
from support.tasks import Run, Store
from support.values import Array, Clip

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import BaseOperator

    from airflow_vace.emulator import Emulator

URL = "https://example.com/a.png"
NATIVE = pytest.mark.parametrize("native", [False, True], ids=["text", "native"])
MISSING = "{{ params.missing }}"
LENIENT = "{{ params.get('missing') or '' }}"


def sent(server: Emulator) -> list[dict[str, Any]]:
    return [seen.input for seen in server.world.runs.values()]


def dag_of(name: str, *, native: bool, **params: Any) -> DAG:
    params = {"missing": None, **params}
    return DAG(name, schedule=None, render_template_as_native_obj=native, params=params)


# --- missing params --------------------------------------------------------------------------------


@NATIVE
def test_a_missing_param_means_not_given_in_each_field(
    fast_emulator: Emulator, airflow_db: str, *, native: bool
) -> None:
    assert airflow_db
    names = [name for name in FIELDS if name not in ("prompt", "src_ref_images")]
    with dag_of("missing", native=native) as dag:
        for number, missing in enumerate((MISSING, LENIENT, "{{ params.missing | tojson }}")):
            fields: dict[str, Any] = dict.fromkeys(("vace_conn_id", "save_to", "label"), missing)
            clip = VacePredictionOperator(
                task_id=f"clip{number}",
                input={"prompt": "a fox", **dict.fromkeys(names, missing), "src_ref_images": [missing]},
                model=missing,
                version=missing,
                wait_for_completion=True,
                **fields,
            )
            VacePredictionSensor(task_id=f"wait{number}", prediction=clip.output, **fields)
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    for values in sent(fast_emulator):
        del values["seed"]  # drawn by the task, as for each input without a seed
        assert values == {"prompt": "a fox", "size": "832*480"}
    for name, _ in states(done):
        payload = xcom(done, name)
        assert payload["model"] == "prunaai/vace-14b"
        assert payload["label"] is None
        assert not payload.get("files")


@NATIVE
def test_a_prompt_from_a_missing_param_is_refused_and_nothing_is_paid(
    fast_emulator: Emulator, airflow_db: str, *, native: bool
) -> None:
    assert airflow_db
    with dag_of("no_prompt", native=native) as dag:
        for number, missing in enumerate((MISSING, LENIENT)):
            for name, model in (("ours", None), ("other", "somebody/else")):
                VacePredictionOperator(
                    task_id=f"{name}{number}", input={"prompt": missing, "seed": 1}, model=model
                )
    assert set(states(run(dag)).values()) == {"failed"}
    assert fast_emulator.bill["charged"] == 0


def test_another_models_input_lacks_what_a_template_did_not_find() -> None:
    given = {"style": "None", "image": MISSING, "deep": [{"mask": LENIENT, "n": 1}], "text": "a {{ 1 }}"}
    rendered = {"style": "None", "image": "None", "deep": [{"mask": "", "n": 1}], "text": "a 1"}
    assert without_missing(given, rendered) == {
        "style": "None",
        "image": None,
        "deep": [{"mask": None, "n": 1}],
        "text": "a 1",
    }


def test_a_lenient_template_of_an_unknown_name_means_not_given(
    fast_emulator: Emulator, airflow_db: str
) -> None:
    import jinja2

    assert airflow_db
    with DAG(
        "lenient",
        schedule=None,
        render_template_as_native_obj=True,
        template_undefined=jinja2.Undefined,  # type: ignore[arg-type]
    ) as dag:
        VacePredictionOperator(
            task_id="clip", input={"prompt": "a fox", "seed": "{{ unknown }}"}, label="{{ unknown }}"
        )
    assert states(run(dag)) == {("clip", -1): "success"}
    assert fast_emulator.bill["charged"] == 1


# --- native rendering ------------------------------------------------------------------------------


@NATIVE
def test_digits_stay_text_where_text_is_meant(
    fast_emulator: Emulator, airflow_db: str, *, native: bool
) -> None:
    assert airflow_db
    words = {
        "year": "1984",
        "sku": "2026_11",
        "zeros": "0012",
        "scale": "12e3",
        "hex": "0x10",
        "price": "3.10",
        "yes": "True",
    }
    with dag_of("digits", native=native, **words) as dag:
        for name in words:
            text = f"{{{{ params.{name} }}}}"
            VacePredictionOperator(task_id=name, input={"prompt": text, "frame_num": "{{ 3.0 }}"}, label=text)
    done = run(dag)
    assert {name: xcom(done, name)["label"] for name in words} == words
    assert {values["prompt"] for values in sent(fast_emulator)} == set(words.values())
    assert {values["frame_num"] for values in sent(fast_emulator)} == {3}


@NATIVE
def test_a_prompt_that_renders_to_a_list_is_not_paid(
    fast_emulator: Emulator, airflow_db: str, *, native: bool
) -> None:
    assert airflow_db

    @task
    def prompts() -> list[str]:
        return ["a fox", "a bear"]

    with dag_of("list", native=native) as dag:
        VacePredictionOperator(task_id="clip", input={"prompt": prompts()})
    assert states(run(dag))[("clip", -1)] == "failed"
    assert fast_emulator.bill["charged"] == 0


@NATIVE
def test_a_sensor_accepts_payloads_and_ids_of_digits(
    fast_emulator: Emulator, airflow_db: str, *, native: bool
) -> None:
    assert airflow_db
    ids = ["20261128", "123_456", "12e3"]
    for name in ids:
        found = {"id": name, "status": "succeeded", "output": URL}
        fast_emulator.faults.add(method="GET", path=f"*/{name}", status=200, body=found)
    with dag_of("ids", native=native, ids=ids) as dag:
        for number in range(len(ids)):
            VacePredictionSensor(task_id=f"s{number}", prediction=f"{{{{ params.ids[{number}] }}}}")
    done = run(dag)
    assert [xcom(done, f"s{number}")["id"] for number in range(len(ids))] == ids


# --- other types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (timedelta(minutes=5), 300),
        (Decimal(300), 300),
        (Array(300), 300),
        ("300", 300),
        (" 300.5 ", 300.5),
        (None, 3600),
        ("None", 3600),
        (300, 300),
    ],
    ids=str,
)
def test_a_timeout_may_be_a_timedelta_or_text(given: Any, wanted: float) -> None:
    made = VacePredictionOperator(task_id="t", input={"prompt": "a fox"}, timeout=given, poll_interval=given)
    assert made.timeout == wanted
    assert made.poll_interval == (None if wanted == 3600 else wanted)
    sensor = VacePredictionSensor(task_id="s", prediction="p1", timeout=given, poke_interval=given)
    assert sensor.poke_interval == (60 if wanted == 3600 else wanted)
    assert sensor.timeout == (7 * 86400 if wanted == 3600 else wanted)


@pytest.mark.parametrize(
    "given",
    [
        timedelta(0),
        timedelta(days=-1),
        True,
        "soon",
        "{{ params.timeout }}",
        [5],
        float("nan"),
        timedelta(days=900),
    ],
    ids=str,
)
def test_a_timeout_that_is_none_is_refused_when_the_dag_is_read(given: Any) -> None:
    for name in ("timeout", "poll_interval"):
        with pytest.raises(ValueError, match=f"{name} is .*positive number of seconds or a timedelta"):
            VacePredictionOperator(task_id="t", input={"prompt": "a fox"}, **{name: given})


@pytest.mark.parametrize("kind", [MappingProxyType, UserDict, lambda values: Clip(**values)])
def test_templates_in_any_mapping_are_rendered(fast_emulator: Emulator, airflow_db: str, kind: Any) -> None:
    assert airflow_db
    with dag_of("mapping", native=False) as dag:
        VacePredictionOperator(task_id="clip", input=kind({"prompt": "{{ 6 * 7 }} foxes"}))
    run(dag)
    assert [values["prompt"] for values in sent(fast_emulator)] == ["42 foxes"]


@pytest.mark.parametrize(
    "values",
    [Clip("a fox", seed=7), '{"prompt": "a fox", "seed": "7"}', UserDict(prompt="a fox", seed=Array(7))],
    ids=repr,
)
def test_an_input_of_another_type_is_sent_as_json(slow_emulator: Emulator, values: Any) -> None:
    Run(lambda: VacePredictionOperator(task_id="t", input=values)).result()
    (found,) = sent(slow_emulator)
    assert (found["prompt"], found["seed"]) == ("a fox", 7)


def test_a_generator_of_images_is_read_once(slow_emulator: Emulator) -> None:
    def clip() -> dict[str, Any]:
        return {"prompt": "a fox", "src_ref_images": (url for url in [URL, f"{URL}?2"])}

    def made() -> BaseOperator:
        with DAG("d", schedule=None):
            found: Any = vace_task(clip)()
        operator: BaseOperator = found.operator
        return operator

    Run(made).result()
    assert [values["src_ref_images"] for values in sent(slow_emulator)] == [[URL, f"{URL}?2"]]


def test_results_of_mapped_tasks_are_a_list_of_images(fast_emulator: Emulator, airflow_db: str) -> None:
    assert airflow_db

    @task
    def image(number: int) -> str:
        return f"{URL}?{number}"

    with DAG("lazy", schedule=None) as dag:
        images = image.expand(number=[1, 2])
        VacePredictionOperator(task_id="clip", input={"prompt": "a fox", "src_ref_images": images})
    run(dag)
    assert [values["src_ref_images"] for values in sent(fast_emulator)] == [[f"{URL}?1", f"{URL}?2"]]


def test_ids_may_be_numbers(slow_emulator: Emulator) -> None:
    done = {"id": "987", "status": "succeeded", "output": URL}
    slow_emulator.faults.add(method="GET", status=200, body=done, times=None)
    for reference in (987, Array(987), {"id": 987}, "987"):
        wait = partial(VacePredictionSensor, task_id="s", prediction=reference)
        assert Run(wait).result()["id"] == "987"
    for wrong in (True, -5, 1.5, None, "None"):
        with pytest.raises(VaceInputError, match="no prediction"):
            VaceHook().get_prediction(wrong)


def test_a_version_may_be_a_number(slow_emulator: Emulator) -> None:
    assert not slow_emulator.requests
    store = Store()
    given: Any = {"version": int("20261128" * 8), "input": {"prompt": "a fox"}}
    Run(lambda: VacePredictionOperator(task_id="t", **given), store).result()
    assert store.record["version"] == "20261128" * 8


@pytest.mark.usefixtures("fast_emulator")
def test_save_to_may_be_any_path(tmp_path: Path) -> None:
    given: dict[str, Any] = {"input": {"prompt": "a fox"}, "wait_for_completion": True}
    for place in (tmp_path, ObjectStoragePath(f"file://{tmp_path}"), f"{tmp_path}/"):
        payload = Run(partial(VacePredictionOperator, task_id="t", save_to=place, **given)).result()
        assert payload["files"][0]["uri"].startswith(f"file://{tmp_path}/")


def test_a_value_without_a_form_in_json_fails_for_good(slow_emulator: Emulator) -> None:
    values = {"thing": object()}
    with pytest.raises(AirflowFailException, match="'thing' has no form in JSON"):
        Run(lambda: VacePredictionOperator(task_id="t", input=values, model="somebody/else")).result()
    assert slow_emulator.requests == []
