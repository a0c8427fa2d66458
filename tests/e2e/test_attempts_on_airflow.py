"""Count the bill of retries, clears and task tests on a whole Airflow, and search its data for secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from airflow_vace.emulator import Emulator

if "VACE_CRASH" in os.environ:
    import psutil
    import psycopg2

    from cluster import Airflow, postgres, table, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif("VACE_CRASH" not in os.environ, reason="VACE_CRASH is not set: takes minutes"),
]

DAGS = """
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor

AGAIN = {"retries": 2, "retry_delay": timedelta(seconds=1)}
CLIPS = "CLIPS_FOLDER/"


def prompt(name):
    # The author corrects the file while the task runs.
    corrected = Path("CLIPS_FOLDER", f"{name}.txt")
    return corrected.read_text() if corrected.exists() else name


def operator(name, **kwargs):
    given = {"vace_conn_id": "slow", "input": {"prompt": prompt(name)}, **AGAIN, **kwargs}
    return VacePredictionOperator(task_id="operator", **given)


with DAG("zombie", schedule=None):
    operator("zombie", vace_conn_id="other", deferrable=True, wait_for_completion=True)

with DAG("adopted", schedule=None):
    operator("adopted", vace_conn_id="fast", wait_for_completion=True, retries=0)

with DAG("moved", schedule=None):
    operator("moved", vace_conn_id="moved")

with DAG("hour", schedule=None):
    submit = operator("hour", vace_conn_id="fast")
    VacePredictionSensor(
        task_id="sensor", vace_conn_id="fast", prediction=submit.output, deferrable=True, save_to=CLIPS
    )

with DAG("tested", schedule=None):
    operator("tested")

with DAG("running", schedule=None):
    operator("running", wait_for_completion=True, retries=0, timeout=600)

with DAG("deferred", schedule=None):
    operator("deferred", wait_for_completion=True, deferrable=True, timeout=600)

SIGNED = "https://in_user:INPASSWORD0123@files.example/in.mp4?hdnts=exp=1~hmac=INSIGNATURE0123"
with DAG("secrets", schedule=None) as dag:
    plain = {"vace_conn_id": "fast", "retries": 0}
    for mode in ("worker", "triggerer", "kept", "unsaved", "failing"):
        VacePredictionOperator(
            task_id=mode,
            input={"prompt": f"secrets {mode}", "src_video": "{{ params.video }}"},
            wait_for_completion=True,
            deferrable=mode != "worker",
            save_to=None if mode == "unsaved" else CLIPS,
            save_in="triggerer" if mode == "triggerer" else "worker",
            **plain,
        )
    VacePredictionOperator(task_id="proxied", input={"prompt": "x"}, vace_conn_id="proxied", retries=0)
    submit = VacePredictionOperator(task_id="submit", input={"prompt": "secrets submit"}, **plain)
    VacePredictionSensor(
        task_id="waits_behind_a_proxy",
        prediction="abcdef",
        vace_conn_id="proxied",
        deferrable=True,
        timeout=20,
        retries=0,
    )
    VacePredictionSensor(
        task_id="sensor",
        prediction=submit.output,
        vace_conn_id="fast",
        deferrable=True,
        start_from_trigger=True,
    )
dag.params["video"] = ""
"""

IN_PASSWORD, IN_SIGNATURE = "INPASSWORD0123", "INSIGNATURE0123"
PROXY_PASSWORD = "PROXYPASSWORD0123"
VIDEO = f"https://in_user:{IN_PASSWORD}@files.example/in.mp4?hdnts=exp=1~hmac={IN_SIGNATURE}"
_RETENTION = 3600.0

# Columns in which Airflow keeps a person's own text verbatim, so secrets there are expected.
OF_A_PERSON = (
    *("connection.password", "connection.extra", "dag_run.conf", "log.extra"),
    *("dag_code.source_code", "serialized_dag.data"),
)


class Scene:
    """A whole Airflow, a fast vendor with signed outputs, a slow vendor, and another address."""

    def __init__(
        self, airflow: Airflow, fast: Emulator, slow: Emulator, other: Emulator, clips: Path
    ) -> None:
        self.airflow, self.fast, self.slow, self.other, self.clips = airflow, fast, slow, other, clips
        self.rows: list[tuple[Any, ...]] = []

    def bills(self, server: Emulator, name: str) -> list[str]:
        """Return the statuses of a task's predictions in the order of their creates."""
        found = [run for run in server.world.runs.values() if run.input["prompt"].startswith(name)]
        return ["canceled" if run.canceled else run.status_at(time.time()) for run in found]

    def state(self, dag_id: str, task_id: str = "operator") -> str:
        return str(self.airflow.states(dag_id, "r").get(task_id))

    def pid(self, dag_id: str) -> int | None:
        """Return the process id of a run's only task, None while no process runs."""
        (found,) = self.airflow.tasks(dag_id, "r")
        return found["pid"] if found["state"] == "running" else None

    def log(self, dag_id: str, attempt: int) -> str:
        return self.airflow.log(dag_id, "r", "operator", attempt)

    def note(self, what: str, dag_id: str, wanted: list[str], found: list[str]) -> None:
        tries = "+".join(str(ti["try_number"]) for ti in self.airflow.tasks(dag_id, "r"))
        states = "+".join(str(ti["state"]) for ti in self.airflow.tasks(dag_id, "r"))
        self.rows.append((what, tries, states, ", ".join(found) or "-"))
        assert found == wanted, what


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    clips = tmp_path_factory.mktemp("clips")
    text = DAGS.replace("CLIPS_FOLDER", str(clips))
    with (
        Emulator(time_scale=0.002, signs=True) as fast,
        Emulator(time_scale=100, seed=1) as slow,
        Emulator(time_scale=100, seed=2) as other,
        postgres() as database,
    ):
        connections = {
            "fast": fast.connection_to(backend="replicate"),
            "slow": slow.connection_to(backend="replicate"),
            "other": other.connection_to(backend="replicate"),
            "proxied": json.dumps(
                {
                    "conn_type": "vace",
                    "host": "http://vendor.example",
                    "password": fast.api_key,
                    "extra": {"timeout": 2, "proxies": {"http": f"scott:{PROXY_PASSWORD}@127.0.0.1:9"}},
                }
            ),
        }
        with Airflow(database, {"again": text}, connections) as airflow:
            airflow.wait_for_dags("zombie", "secrets")
            point(airflow, slow, "POST")
            yield Scene(airflow, fast, slow, other, clips)


def point(airflow: Airflow, server: Emulator, method: str) -> None:
    """Point the connection `moved` in Airflow's database to a server."""
    known = json.loads(server.connection_to(backend="replicate"))
    body = {"connection_id": "moved", **{name: known[name] for name in ("conn_type", "host", "password")}}
    extra = known.get("extra")
    body["extra"] = extra if isinstance(extra, str) else json.dumps(extra)
    path = "/connections" if method == "POST" else "/connections/moved"
    airflow.ask(method, path, body)


def test_attempts_clears_and_tests_of_tasks_pay_once(scene: Scene) -> None:
    try:
        zombie = zombie_begins(scene)
        adopted_failure(scene)
        moved_connection(scene)
        cleared_after_the_hour(scene)
        cli_test_of_a_task(scene)
        clears_of_tasks_that_run(scene)
        zombie_ends(scene, zombie)
    finally:
        print(table(("what", "attempts", "states", "predictions"), scene.rows))


def adopted_failure(scene: Scene) -> None:
    # The create is accepted and its answer lost; the look-up then finds a prediction that failed.
    scene.fast.faults.add(
        method="POST",
        path="*/predictions",
        status=502,
        accept=True,
        outcome={"status": "failed", "error": "E1001: out of memory"},
    )
    scene.fast.faults.add(method="GET", path="/v1/predictions", delay=1.0)
    scene.airflow.trigger("adopted", "r")
    until(lambda: scene.airflow.run_state("adopted", "r") == "failed")
    scene.note("a lost create that failed", "adopted", ["failed"], scene.bills(scene.fast, "adopted"))
    assert "E1001" in scene.log("adopted", 1)


def moved_connection(scene: Scene) -> None:
    # No answer comes, so the attempt still waits for it when the connection moves and the task dies.
    scene.slow.faults.add(method="POST", path="*/predictions", hang="after")
    scene.airflow.trigger("moved", "r")
    until(lambda: scene.bills(scene.slow, "moved"))
    pid = until(lambda: scene.pid("moved"))
    point(scene.airflow, scene.other, "PATCH")
    psutil.Process(pid).kill()
    until(lambda: scene.airflow.run_state("moved", "r") == "failed")
    found = scene.bills(scene.slow, "moved") + scene.bills(scene.other, "moved")
    scene.note("a lost create, and another server since", "moved", ["starting"], found)
    assert "and elsewhere now" in scene.log("moved", 2)


def cleared_after_the_hour(scene: Scene) -> None:
    scene.airflow.trigger("hour", "r")
    until(lambda: scene.airflow.run_state("hour", "r") == "success")
    first = scene.airflow.xcom("hour", "r", "sensor")
    # The vendor has deleted its files, so only the saved ones are left.
    scene.fast.world.retention = 0.0
    scene.airflow.ask("POST", "/dags/hour/dagRuns/r/clear", {"dry_run": False})
    until(lambda: scene.airflow.run_state("hour", "r") != "success")
    until(lambda: scene.airflow.run_state("hour", "r") in ("success", "failed"))
    scene.fast.world.retention = _RETENTION
    again = scene.airflow.xcom("hour", "r", "sensor")
    found = scene.bills(scene.fast, "hour")
    scene.note("a run that is cleared after the files' hour", "hour", ["succeeded"], found)
    assert again["files"] == first["files"]


def cli_test_of_a_task(scene: Scene) -> None:
    scene.airflow.trigger("tested", "r")
    until(lambda: scene.state("tested") == "success")
    # Another input than the run's would replace a prediction, if the test were an attempt.
    (scene.clips / "tested.txt").write_text("tested and edited")
    command = [sys.executable, "-m", "airflow", "tasks", "test", "tested", "operator", "r"]
    done = subprocess.run(
        command, env=scene.airflow.environment, capture_output=True, text=True, check=True, cwd=scene.clips
    )
    assert "leaves the record and the prediction of this run alone" in done.stdout + done.stderr
    scene.note(
        "`airflow tasks test` on a run", "tested", ["starting", "starting"], scene.bills(scene.slow, "tested")
    )
    ledger = scene.airflow.ask("GET", "/dags/tested/dagRuns/r/taskInstances/operator/state-store")
    first = next(iter(run.id for run in scene.slow.world.runs.values() if run.input["prompt"] == "tested"))
    assert first in json.dumps(ledger)


def clears_of_tasks_that_run(scene: Scene) -> None:
    for name in ("running", "deferred"):
        clear_of_a_task_that_is(name, scene)


def clear_of_a_task_that_is(name: str, scene: Scene) -> None:
    scene.airflow.trigger(name, "r")
    until(lambda: scene.bills(scene.slow, name))
    until(lambda: scene.state(name) == name)
    # The author has corrected the prompt, so the old prediction is of no use and is canceled.
    (scene.clips / f"{name}.txt").write_text(f"{name} and corrected")
    scene.airflow.clear(name, "r", "operator")
    until(lambda: len(scene.bills(scene.slow, name)) > 1)
    found = scene.bills(scene.slow, name)
    scene.note(f"a clear of a task that is {name}", name, ["canceled", "starting"], found)
    scene.airflow.mark(name, "r", "operator", "failed")


RETRY_AFTER_SECONDS = 60


class Zombie(NamedTuple):
    """An attempt that Airflow takes for dead: time of its start, process id, suspended supervisor."""

    began: float
    pid: int
    supervisor: psutil.Process


def zombie_begins(scene: Scene) -> Zombie:
    """Return a suspended attempt in its pause after a 429.

    Its server is `other`, and the other scenes go on meanwhile, since the pause takes a minute.
    """
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    scene.other.faults.add(method="POST", path="*/predictions", status=429, headers=headers)
    began = time.time()
    scene.airflow.trigger("zombie", "r")
    pid = until(lambda: scene.pid("zombie"))
    until(lambda: any("429" in line for line in scene.log("zombie", 1).splitlines()))
    # The supervisor sends the heartbeats, so Airflow takes the task for dead.
    supervisor = psutil.Process(pid).parent()
    assert supervisor is not None
    supervisor.suspend()
    return Zombie(began, pid, supervisor)


def zombie_ends(scene: Scene, zombie: Zombie) -> None:
    """Wait until the attempt has woken beside its successor, and count the bill."""
    try:
        until(lambda: scene.bills(scene.other, "zombie"), 240)
        # By then the first attempt has woken and confirms its intent.
        until(lambda: time.time() > zombie.began + RETRY_AFTER_SECONDS + 15, 120)
    finally:
        zombie.supervisor.resume()
    until(lambda: not psutil.pid_exists(zombie.pid), 60)
    found = scene.bills(scene.other, "zombie")
    scene.note("an attempt that was given up in a 429", "zombie", ["starting"], found)
    scene.airflow.mark("zombie", "r", "operator", "failed")


# --- leaks -----------------------------------------------------------------------------------------


def everything(scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each value in the database, each log and each manifest."""
    base = psycopg2.connect(
        scene.airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    )
    with base, base.cursor() as cursor:
        cursor.execute("select table_name from information_schema.tables where table_schema = 'public'")
        for (name,) in cursor.fetchall():
            cursor.execute(f'select * from "{name}"')  # noqa: S608 - a name of Airflow's
            for row in cursor.fetchall():
                for column, value in zip(cursor.description or (), row, strict=True):
                    if f"{name}.{column.name}" not in OF_A_PERSON:
                        # PostgreSQL returns binary columns as views, whose text shows nothing.
                        raw = bytes(value) if isinstance(value, memoryview) else value
                        yield f"{name}.{column.name}", repr(raw)
    base.close()
    for folder in (scene.airflow.home, scene.clips):
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.suffix in (".log", ".json"):
                yield str(path.relative_to(folder)), path.read_text(errors="replace")


def test_no_secret_is_in_the_database_a_log_or_a_manifest(scene: Scene) -> None:
    # The vendor itself repeats the input's URL and the key in an error.
    error = f"could not fetch {VIDEO} with {scene.fast.api_key}"
    scene.airflow.trigger("secrets", "r", video=VIDEO)
    scene.fast.faults.add(
        method="GET", path="*/predictions/*", times=1, skip=3, patch={"status": "failed", "error": error}
    )
    until(lambda: scene.airflow.run_state("secrets", "r") in ("success", "failed"), 300)
    secrets = {
        "the key": scene.fast.api_key,
        "the proxy's password": PROXY_PASSWORD,
        "an output's signature": scene.fast.signature,
        "an input's signature": IN_SIGNATURE,
        "an input's password": IN_PASSWORD,
    }
    places = list(everything(scene))
    found = {(what, where) for where, text in places for what, secret in secrets.items() if secret in text}
    states = scene.airflow.states("secrets", "r")
    print(f"\n{len(places)} values searched for {len(secrets)} secrets: {sorted(found) or 'none'}; {states}")
    assert found == set()
    # Tasks behind the dead proxy fail; without the others the search would prove little.
    assert list(states.values()).count("success") >= 5
