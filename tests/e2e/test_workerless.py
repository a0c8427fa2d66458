"""Start and end waits in the triggerer of a real Airflow; some need a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.emulator import Emulator
from airflow_vace.hooks import VaceHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Airflow

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not os.environ.get("VACE_CRASH"), reason="VACE_CRASH is not set: takes minutes"),
]

FINDS = """
from airflow.sdk import DAG, task, task_group
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor

FOX = {"prompt": "a fox", "frame_num": 5}
HERE = {"start_from_trigger": True, "deferrable": True, "poke_interval": 1.0, "timeout": 300}

with DAG("finds", schedule=None) as dag:
    submit = VacePredictionOperator(task_id="submit", input=FOX)
    several = VacePredictionOperator.partial(task_id="several").expand(input=[FOX, FOX, FOX])

    @task
    def gather(predictions):
        return [prediction["id"] for prediction in predictions]

    listed = gather(several.output)

    VacePredictionSensor(task_id="plain", prediction="@0", **HERE)
    VacePredictionSensor(task_id="payload", prediction={"id": "@1", "status": "starting"}, **HERE)
    one = VacePredictionSensor(task_id="xcom", prediction=submit.output, **HERE)
    each = VacePredictionSensor.partial(task_id="mapped", **HERE).expand(prediction=several.output)
    VacePredictionSensor.partial(task_id="over_a_list", **HERE).expand(prediction=listed)
    VacePredictionSensor.partial(task_id="over_literals", **HERE).expand(prediction=["@2", "@3"])

    @task_group
    def group(number):
        made = VacePredictionOperator(task_id="made", input=FOX)
        VacePredictionSensor(task_id="wait", prediction=made.output, **HERE)

    @task_group
    def handed(prediction):
        VacePredictionSensor(task_id="argument", prediction=prediction, **HERE)

    group.expand(number=[1, 2])
    handed.expand(prediction=["@4", "@5"])

    submit >> VacePredictionSensor(
        task_id="by_template", prediction="{{ ti.xcom_pull('submit')['id'] }}", **HERE
    )
    stripped = listed.map(lambda p: p.strip())
    VacePredictionSensor.partial(task_id="by_function", **HERE).expand(prediction=stripped)
    VacePredictionSensor.partial(task_id="over_two", **HERE).expand(
        prediction=["@2"], save_to=["/tmp/vace-over-two/"]
    )
    VacePredictionSensor(task_id="saved", prediction="@0", save_to="/tmp/vace-saved/", **HERE)
    VacePredictionSensor(task_id="nonsense", prediction=["@0"], **HERE)
    VacePredictionSensor(task_id="failed", prediction="@9", **HERE)

    @task
    def use(prediction):
        assert prediction["status"] == "succeeded", prediction
        return prediction["id"]

    use(one.output)
    use.override(task_id="use_each").expand(prediction=each.output)
"""
MANY = """
import json
from airflow.sdk import DAG
from airflow_vace.sensors import VacePredictionSensor

with DAG("many", schedule=None):
    VacePredictionSensor.partial(task_id="wait", pool="nobody", deferrable=True, retries=0).expand(
        prediction=json.loads(open(__file__ + ".ids").read())
    )
"""
# Does the API server's part of a deferral, so no thousands of worker processes are needed.
DEFER = """
import json, sys
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils import timezone
from airflow.utils.session import create_session
from sqlalchemy import select

identifiers = json.load(open(sys.argv[1]))
with create_session() as session:
    for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == "many")):
        trigger = Trigger(
            classpath="airflow_vace.triggers.VacePredictionTrigger",
            kwargs={
                "prediction": {"id": identifiers[ti.map_index], "status": "starting"},
                "end_from_trigger": True,
            },
        )
        session.add(trigger)
        session.flush()
        ti.state, ti.trigger_id, ti.try_number = "deferred", trigger.id, 1
        ti.next_method, ti.next_kwargs = "execute_complete", {}
        ti.start_date = timezone.utcnow()
"""
SENSORS = int(os.environ.get("VACE_SENSORS", "300"))
# Longer than any test, so the many predictions end when the test says.
BOOT_SECONDS = 1e6

# The id stands in the DAG or in an XCom that the triggerer can find without rendering.
WITHOUT_WORKER = {
    "plain",
    "payload",
    "xcom",
    "mapped",
    "over_a_list",
    "over_literals",
    "group.wait",
    "handed.argument",
}
# A template or a function must be evaluated, and a save must be rendered, so a worker starts these.
WITH_WORKER = {"by_template", "by_function", "over_two", "saved"}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.3) as running:
        os.environ["AIRFLOW_CONN_VACE_DEFAULT"] = running.connection
        yield running
    del os.environ["AIRFLOW_CONN_VACE_DEFAULT"]


@pytest.fixture(scope="module")
def airflow(emulator: Emulator) -> Iterator[Airflow]:
    from cluster import Airflow, postgres

    known = [VaceHook().create_prediction({"prompt": "an otter", "frame_num": 5}).id for _ in range(9)]
    emulator.faults.add(outcome={"status": "failed", "error": "E1001 out of memory"}, method="POST")
    known.append(VaceHook().create_prediction({"prompt": "an otter", "frame_num": 5}).id)
    finds = FINDS
    for number, identifier in enumerate(known):
        finds = finds.replace(f"@{number}", identifier)
    many = []
    for number in range(SENSORS):
        values = {"prompt": f"fox {number}", "frame_num": 5}
        run = emulator.world.create(values, model="prunaai/vace-14b", version=None, now=time.time())
        run.timeline.boot = BOOT_SECONDS
        many.append(run.id)
    dags = {"finds": finds, "many": MANY}
    settings: dict[str, Any] = {
        "AIRFLOW__CORE__MAX_MAP_LENGTH": "4000",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4000",
        "AIRFLOW__TRIGGERER__CAPACITY": "4000",
    }
    connections = {"vace_default": emulator.connection}
    with postgres() as database, Airflow(database, dags, connections, **settings) as running:
        (running.home / "dags" / "many.py.ids").write_text(json.dumps(many))
        running.known = known  # type: ignore[attr-defined]
        yield running


def ended(airflow: Airflow, dag_id: str, run_id: str, seconds: float = 300) -> list[dict[str, Any]]:
    from cluster import until

    until(lambda: airflow.run_state(dag_id, run_id) in ("success", "failed"), seconds)
    return airflow.tasks(dag_id, run_id)


def test_a_prediction_known_to_the_scheduler_needs_no_worker(airflow: Airflow) -> None:
    airflow.wait_for_dags("finds")
    tasks = ended(airflow, "finds", airflow.trigger("finds", "r"))
    states = {(ti["task_id"], ti["map_index"]): ti["state"] for ti in tasks}
    bad = {key for key, state in states.items() if state != "success"}
    assert bad == {("nonsense", -1), ("failed", -1)}
    for ti in tasks:
        # Airflow notes a process id only for tasks that a worker has run.
        if ti["task_id"] in WITHOUT_WORKER:
            assert ti["pid"] is None, f"{ti['task_id']} ran on a worker"
        if ti["task_id"] in WITH_WORKER:
            assert ti["pid"] is not None, f"{ti['task_id']} ran without a worker"
    known = airflow.known  # type: ignore[attr-defined]
    assert airflow.xcom("finds", "r", "plain")["id"] == known[0]
    assert airflow.xcom("finds", "r", "payload")["id"] == known[1]
    assert airflow.xcom("finds", "r", "use") == airflow.xcom("finds", "r", "submit")["id"]
    log = airflow.log("finds", "r", "failed", 1)
    assert "E1001" in log
    assert "is no prediction" in airflow.log("finds", "r", "nonsense", 1)


def test_many_sensors_wait_in_one_triggerer_and_survive_its_death(
    airflow: Airflow, emulator: Emulator
) -> None:
    from cluster import until

    airflow.wait_for_dags("many")
    # A pool without slots keeps the tasks from workers, so the script can defer them all.
    airflow.ask("POST", "/pools", {"name": "nobody", "slots": 0})
    run_id = airflow.trigger("many", "r")
    until(
        lambda: [ti["state"] for ti in airflow.tasks("many", run_id)] == ["scheduled"] * SENSORS, 300, every=2
    )
    script = airflow.home / "defer.py"
    script.write_text(DEFER)
    command = [sys.executable, str(script), str(airflow.home / "dags" / "many.py.ids")]
    subprocess.run(command, env=airflow.environment, check=True, capture_output=True)

    def are_all_polled_since(number: int) -> bool:
        new = emulator.requests[number:]
        return len({seen.path.rpartition("/")[2] for seen in new if seen.method == "GET"}) >= SENSORS

    until(lambda: are_all_polled_since(0), 300, every=2)
    airflow.kill("triggerer")
    seen_before = len(emulator.requests)
    airflow.start("triggerer-2")
    until(lambda: are_all_polled_since(seen_before), 300, every=2)
    before = blocked(airflow)
    time.sleep(15)  # all wait here and none starts or ends; no event marks that
    assert blocked(airflow) == before
    end_one_after_the_other(emulator)
    tasks = sorted(ended(airflow, "many", run_id, 600), key=lambda ti: ti["map_index"])
    report(airflow, emulator, tasks, before)
    assert len(tasks) == SENSORS
    assert {ti["state"] for ti in tasks} == {"success"}
    assert all(ti["pid"] is None for ti in tasks)


def end_one_after_the_other(emulator: Emulator) -> None:
    """Let the many predictions end within half a minute, since real ones do not end all at once."""
    now = time.time()
    for number, run in enumerate(emulator.world.runs.values()):
        if run.timeline.boot == BOOT_SECONDS:
            run.timeline.boot = now + 5 + 30 * number / SENSORS - run.timeline.created


def report(airflow: Airflow, emulator: Emulator, tasks: list[dict[str, Any]], before: int) -> None:
    """Print how late the ends were noticed, and how often the triggerer's loop was blocked."""
    identifiers = json.loads((airflow.home / "dags" / "many.py.ids").read_text())
    late = sorted(
        datetime.fromisoformat(ti["end_date"]).timestamp() - emulator.world.runs[identifier].ended
        for ti, identifier in zip(tasks, identifiers, strict=True)
    )
    print(f"{len(tasks)} sensors, late by {late[len(late) // 2]:.1f} s (median), {late[-1]:.1f} s (most)")
    print(f"blocked loop: {before} times at the start, 0 in the wait, {blocked(airflow) - before} at the end")


def blocked(airflow: Airflow) -> int:
    """Return the number of times that Airflow reported a blocked triggerer loop.

    The start of many triggers at once blocks the loop in any case.
    """
    logs = [path.read_text() for path in airflow.home.glob("triggerer*.log")]
    return sum(text.count("async thread was blocked") for text in logs)
