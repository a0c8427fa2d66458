"""The configuration's cap for a DAG run: single, mapped and batch tasks share one sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.sdk import DAG, task_group

from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from support.runs import run, states, xcom

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.fixture
def vendor(
    fast_emulator: Emulator, connect: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Emulator:
    """A server at forty cents a prediction, in a deployment that allows two dollars a run."""
    prices = {"prunaai/vace-14b": {"per_run": 0.40}}
    connect(fast_emulator.connection_to(backend="replicate", prices=prices))
    monkeypatch.setenv("AIRFLOW__VACE__MAX_COST_PER_DAG_RUN", "2.00")
    return fast_emulator


def test_all_tasks_of_a_run_share_the_cap_of_the_configuration(vendor: Emulator, tmp_path: Path) -> None:
    with DAG("capped", schedule=None) as dag:
        first = VacePredictionOperator(task_id="first", input={"prompt": "a fox"})
        mapped = VacePredictionOperator.partial(task_id="mapped").expand(
            input=[{"prompt": "a bear"}, {"prompt": "a wolf"}]
        )
        batch = VaceBatchOperator(
            task_id="batch", inputs=["a cat", "a dog", "a cow"], save_to=f"{tmp_path}/", min_success=0
        )
        last = VacePredictionOperator(task_id="last", input={"prompt": "a hen"}, trigger_rule="all_done")
        first >> mapped >> batch >> last
    done = run(dag)
    # Forty cents, eighty cents, and two of three items; the fourth task finds nothing left.
    assert xcom(done, "batch")["counts"]["succeeded"] == 2
    assert xcom(done, "batch")["counts"]["skipped"] == 1
    assert states(done)["last", -1] == "failed"
    assert len(vendor.bill["predictions"]) == 5


def test_another_run_of_the_dag_has_a_sum_of_its_own(vendor: Emulator) -> None:
    with DAG("capped_again", schedule=None) as dag:
        VacePredictionOperator.partial(task_id="clip").expand(input=[{"prompt": each} for each in "abcd"])
    for _ in range(2):
        assert set(states(run(dag)).values()) == {"success"}
    assert len(vendor.bill["predictions"]) == 8


def test_the_passes_of_a_loop_share_the_cap_of_the_configuration(
    vendor: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__MAX_COST_PER_DAG_RUN", "1.20")
    with DAG("capped_loop", schedule=None) as dag:

        @task_group
        def rounds() -> None:
            first = VacePredictionOperator.partial(task_id="one").expand(input=[{"prompt": "a fox"}])
            first >> VacePredictionOperator(task_id="two", input={"prompt": "a bear"})

        if not hasattr(rounds, "loop"):
            pytest.skip("Airflow 3.4 brings task loops")
        loop = rounds.loop(max_iterations=3)
        loop >> VacePredictionOperator(task_id="last", input={"prompt": "a hen"}, trigger_rule="all_done")
    done = run(dag)
    # Two in the first pass, one in the second; neither its second task nor the last one finds anything left.
    assert len(vendor.bill["predictions"]) == 3
    assert states(done)["rounds.one", 0] == "success"
    assert states(done)["last", -1] == "failed"
