"""The plugin and its tabs as Airflow loads them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_vace.ui import OPERATOR_NAMES, REVIEW_NAMES, plugin


@pytest.mark.parametrize(("wanted", "count"), [("False", 2), ("True", 3)])
def test_before_airflow_3_4_a_setting_enables_the_tab_of_a_task(
    monkeypatch: pytest.MonkeyPatch, wanted: str, count: int
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__TASK_TAB", wanted)
    tabs = plugin.tabs(is_scoped=False)
    places = [("Videos", "nav"), ("Videos", "dag_run"), ("Video", "task_instance")]
    assert [(tab["name"], tab["destination"]) for tab in tabs] == places[:count]
    assert not [tab for tab in tabs if "applies_to" in tab]


def test_since_airflow_3_4_the_tab_is_on_our_tasks_and_on_reviews_only() -> None:
    *_, tab = plugin.tabs(is_scoped=True)
    assert tab["applies_to"] == {"operator_name": [*OPERATOR_NAMES, *REVIEW_NAMES]}


def test_the_names_of_reviews_are_those_of_airflows_operators() -> None:
    hitl = pytest.importorskip("airflow.providers.standard.operators.hitl")
    assert {getattr(hitl, name).__name__ for name in REVIEW_NAMES} == set(REVIEW_NAMES)


def test_the_page_in_the_navigation_has_an_icon_for_each_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://data.example/airflow/")
    (library, *_) = plugin.tabs()
    assert (library["url_route"], library["nav_top_level"]) == ("vace_library", True)
    assert library["icon"] == "/airflow/vace/icon.svg"
    assert library["icon_dark_mode"] == "/airflow/vace/icon-dark.svg"


def test_the_tab_is_scoped_to_the_names_of_our_tasks() -> None:
    from airflow_vace.decorators import vace_batch_task, vace_task
    from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
    from airflow_vace.sensors import VacePredictionSensor

    def clip() -> str:
        return "a fox"

    def clips() -> list[str]:
        return ["a fox"]

    with DAG("names", schedule=None):
        decorated: Any = vace_task(clip)().operator  # type: ignore[attr-defined]
        made = VacePredictionOperator(task_id="a", input={"prompt": "b"})
        waited = VacePredictionSensor(task_id="b", prediction=made.output)
        many = VaceBatchOperator(task_id="c", inputs=["b"], save_to="/data/")
        rows: Any = vace_batch_task(save_to="/data/")(clips)().operator
    assert {one.operator_name for one in (decorated, made, waited, many, rows)} == set(OPERATOR_NAMES)


def test_the_url_of_the_script_is_below_airflows_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://data.example/airflow/")
    (gallery, *_) = plugin.tabs()
    assert gallery["bundle_url"].startswith("/airflow/vace/tab.js?version=")


def test_loading_the_plugin_loads_neither_fastapi_nor_our_client() -> None:
    code = (
        "import sys, airflow.plugins_manager; before = set(sys.modules); import airflow_vace.ui.plugin;"
        "print(sorted({n.split('.')[0] for n in set(sys.modules) - before}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fastapi" not in found.stdout.splitlines()[-1]
    assert "aiohttp" not in found.stdout.splitlines()[-1]


def test_airflow_lists_the_plugin(airflow_db: str) -> None:
    assert airflow_db
    command = [sys.executable, "-m", "airflow", "plugins", "-o", "json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    (ours,) = [plugin for plugin in json.loads(found.stdout) if plugin["name"] == "vace"]
    assert "Videos" in str(ours["react_apps"])
    assert "/vace" in str(ours["fastapi_apps"])
