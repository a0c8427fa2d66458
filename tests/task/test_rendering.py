"""Text from other tasks is data; text in the DAG's file is rendered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task, task_group

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.runs import run, states, xcom

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("airflow_db")

EVIL = "{{ conn.vace_default.password }} {{ 6 * 7 }} {% if 1 %}{# x #}"
NATIVE = pytest.mark.parametrize("native", [False, True], ids=["text", "native"])


class House(VacePredictionOperator):
    """An operator as a company might derive it: with other arguments, and a label of its class."""

    def __init__(self, *, row: dict[str, Any], style: str = "", **kwargs: Any) -> None:
        whole = {"prompt": f"house: {row['name']}{style}", "size": "{{ '832*480' }}"}
        super().__init__(input=whole, label="{{ 'house' }} style", **kwargs)


def sent(server: Emulator) -> list[str]:
    return [seen.input["prompt"] for seen in server.world.runs.values()]


@task
def rows() -> list[dict[str, Any]]:
    return [{"name": EVIL, "nested": {"names": [EVIL]}}]


@task
def name() -> str:
    return EVIL


@task
def whole() -> dict[str, Any]:
    return {"prompt": EVIL}


def labels(done: Any) -> dict[tuple[str, int], str]:
    tasks = [key for key in states(done) if not key[0].startswith(("rows", "name", "whole"))]
    found = {key: xcom(done, *key)["label"] for key in tasks}
    return {key: label for key, label in found.items() if label}


@NATIVE
def test_text_that_an_operator_is_mapped_over_is_no_template(
    fast_emulator: Emulator, *, native: bool
) -> None:
    clip = VacePredictionOperator
    with DAG("mapped", schedule=None, render_template_as_native_obj=native) as dag:
        found = rows()
        clip.partial(task_id="a").expand(input=found.map(lambda row: {"prompt": "a " + row["name"]}))
        clip.partial(task_id="b").expand_kwargs(
            found.map(
                lambda row: {"input": {"prompt": "b " + row["nested"]["names"][0]}, "label": row["name"]}
            )
        )
        clip.partial(task_id="c", label="{{ 'c' }}").expand_kwargs(
            found.map(lambda row: {"input": json.dumps({"prompt": "c " + row["name"]})})
        )
        clip.partial(task_id="d").expand(input=found.zip(found).map(lambda both: {"prompt": both[1]["name"]}))
        clip.partial(task_id="e").expand_kwargs(
            found.concat(found).map(lambda row: {"input": {"prompt": row["name"]}})
        )
        House.partial(task_id="f", style=", in {{ 6 * 7 }}").expand(row=found)
        House.partial(task_id="g").expand_kwargs(found.map(lambda row: {"row": row}))
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    assert sorted(sent(fast_emulator)) == sorted(
        [
            *(f"a {EVIL}", f"b {EVIL}", f"c {EVIL}"),
            *[EVIL] * 3,
            *(f"house: {EVIL}, in {{{{ 6 * 7 }}}}", f"house: {EVIL}"),
        ]
    )
    assert labels(done) == {
        ("b", 0): EVIL,
        ("c", 0): "c",
        ("f", 0): "house style",
        ("g", 0): "house style",
    }


@NATIVE
def test_data_that_a_subclass_has_changed_is_no_template(fast_emulator: Emulator, *, native: bool) -> None:
    class Cleaned(VacePredictionOperator):
        def __init__(self, *, text: str, more: str = "", **kwargs: Any) -> None:
            whole = {"prompt": text.strip().replace("*", "") + more, "size": "{{ '832*480' }}"}
            super().__init__(input=whole, **kwargs)

    with DAG("changed", schedule=None, render_template_as_native_obj=native) as dag:
        found = rows()
        Cleaned.partial(task_id="a").expand(text=found.map(lambda row: f"  a {row['name']}\n"))
        Cleaned.partial(task_id="b").expand_kwargs(found.map(lambda row: {"text": f" b {row['name']} "}))
        Cleaned.partial(task_id="c").expand(text=found.map(lambda _: "c {*{ 6 * 7 }*}"))
        Cleaned.partial(task_id="d", more="{ 6 * 7 }}").expand(text=found.map(lambda _: "d {"))
        Cleaned.partial(task_id="e", more=" {{ 6 * 7 }}").expand(text=found.map(lambda _: "e"))
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    data = EVIL.replace("*", "")
    assert sorted(sent(fast_emulator)) == sorted(
        [f"a {data}", f"b {data}", "c {{ 6  7 }}", "d {{ 6 * 7 }}", "e 42"]
    )


@NATIVE
def test_text_that_an_operator_is_handed_is_no_template_and_literals_are(
    fast_emulator: Emulator, *, native: bool
) -> None:
    clip = VacePredictionOperator
    with DAG("handed", schedule=None, render_template_as_native_obj=native) as dag:
        clip(task_id="a", input={"prompt": name()}, label="{{ 1 + 1 }}")
        given: Any = whole()
        clip(task_id="b", input=given)
        clip.partial(task_id="c").expand(input=[{"prompt": name()}, {"prompt": "c {{ 1 + 1 }}"}])
        clip.partial(task_id="d").expand_kwargs(
            [{"input": {"prompt": name()}}, {"input": {"prompt": "d {{ 1 + 1 }}"}, "label": "{{ 'two' }}"}]
        )
        clip.partial(task_id="e").expand_kwargs([{"input": whole(), "label": name()}])

        @task_group
        def group(row: Any) -> None:
            clip(task_id="f", input={"prompt": row}, label="{{ 'f' }}")

        group.expand(row=rows().map(lambda row: row["name"]))
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    assert sorted(sent(fast_emulator)) == sorted(["c 2", "d 2", *[EVIL] * 6])
    assert labels(done) == {
        ("a", -1): "2",
        ("d", 1): "two",
        ("e", 0): EVIL,
        ("group.f", 0): "f",
    }


@NATIVE
def test_text_of_other_tasks_reaches_no_function_as_a_template(
    fast_emulator: Emulator, *, native: bool
) -> None:
    with DAG("functions", schedule=None, render_template_as_native_obj=native) as dag:
        found = rows()

        @task.vace(label="{{ 'all' }}")
        def clip(way: str, row: Any, style: str = "") -> str:
            text = row["nested"]["names"][0] if isinstance(row, dict) else row
            return f"{way} {text}{style}"

        clip("a", name(), style="{{ 1 + 1 }}")
        clip.partial(way="b", style=" {{ 1 + 1 }}").expand(row=found)
        clip.partial(way="c", style=" {{ 1 + 1 }}").expand_kwargs(found.map(lambda row: {"row": row["name"]}))
        clip.partial(way="d").expand_kwargs(found.map(lambda row: {"row": row, "style": row["name"]}))
        clip.partial(way="e").expand_kwargs([{"row": name()}, {"row": "{{ 1 + 1 }}"}])
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    assert sorted(sent(fast_emulator)) == [
        f"a {EVIL}2",
        f"b {EVIL} 2",
        f"c {EVIL} 2",
        f"d {EVIL}{EVIL}",
        "e 2",
        f"e {EVIL}",
    ]


@pytest.mark.usefixtures("fast_emulator")
@NATIVE
def test_text_of_other_tasks_reaches_no_sensor_as_a_template(tmp_path: Path, *, native: bool) -> None:
    with DAG("sensors", schedule=None, render_template_as_native_obj=native) as dag:
        submit = VacePredictionOperator.partial(task_id="submit").expand(input=[{"prompt": "a fox"}])

        def wanted(payload: Any) -> dict[str, Any]:
            return {"prediction": payload, "save_to": f"{tmp_path}/{{{{ 6 * 7 }}}}/", "label": EVIL}

        VacePredictionSensor.partial(task_id="wait", deferrable=False, poke_interval=0.1).expand_kwargs(
            submit.output.map(wanted)
        )
    done = run(dag)
    assert set(states(done).values()) == {"success"}
    payload = xcom(done, "wait", 0)
    assert payload["label"] == EVIL
    assert [path.name for path in tmp_path.iterdir()] == ["{{ 6 * 7 }}"]
