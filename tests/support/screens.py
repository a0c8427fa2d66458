"""Airflow's API server with its UI, and runs in all states that the screens show; no scheduler."""

from __future__ import annotations

import contextlib
import runpy
import socket
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from support.runs import created, put_xcom, run, set_state, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_vace.emulator import Emulator

DAGS = Path(__file__).parents[2] / "dags"
CAMPAIGN, TEXT, REVIEW = "vace_campaign", "vace_text_to_video", "vace_review"
REGENERATED = "regenerated"


@dataclass
class Screens:
    """Airflow's UI at `address`, and the ids of its runs by name."""

    address: str
    folder: Path
    emulator: Emulator
    runs: dict[str, tuple[str, str]] = field(default_factory=dict)

    def path(self, name: str, rest: str = "/plugin/vace_videos") -> str:
        """Return the address of a page of a run."""
        dag_id, run_id = self.runs[name]
        return f"{self.address}/dags/{dag_id}/runs/{quote(run_id, safe='')}{rest}"


def value_of(place: tuple[str, str], task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
    """Return the value of an XCom, None without one."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_vace.ui.xcoms import read_value

    wanted = select(XComModel.value).where(
        XComModel.dag_id == place[0],
        XComModel.run_id == place[1],
        XComModel.task_id == task_id,
        XComModel.key == key,
        XComModel.map_index == map_index,
    )
    with create_session() as session:
        return read_value(session.scalars(wanted).one_or_none())


def dag_of(dag_id: str) -> Any:
    """Return an example DAG."""
    return runpy.run_path(str(DAGS / f"{dag_id}.py"))[dag_id]()


def regenerating(save_to: str) -> Any:
    """Return a DAG whose clip another one replaces after a failed check."""
    from airflow.sdk import DAG

    from airflow_vace.operators import VacePredictionOperator

    with DAG(REGENERATED, schedule=None) as dag:
        VacePredictionOperator(
            task_id="clip",
            input={"prompt": "A kite over dunes", "frame_num": 17, "seed": 7},
            wait_for_completion=True,
            save_to=save_to,
            checks="regenerate",
        )
    return dag


def ask_question(place: tuple[str, str, str], payload: dict[str, Any]) -> None:
    """Store the question of a review, as its task does before it waits.

    :param place: ids of DAG, run and task
    :param payload: result of the task `clip`
    """
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from jinja2 import Environment
    from sqlalchemy import select

    dag_id, run_id, task_id = place
    dag = dag_of(dag_id)
    question = dag.task_dict[task_id]
    names = {"dag": dag, "run_id": run_id, "params": {name: dag.params[name] for name in ("prompt", "seed")}}
    ti = SimpleNamespace(xcom_pull=lambda **_: payload)
    body = Environment(autoescape=False).from_string(question.body).render(ti=ti, **names)  # noqa: S701 - as Airflow
    wanted = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == task_id)
    with create_session() as session:
        ti_id = session.scalars(select(TaskInstance.id).where(*wanted)).one()
        options = ["Approve", "Reject"]
        session.add(HITLDetail(ti_id=ti_id, options=options, subject=question.subject, body=body, params={}))


def tested(dag_id: str, **conf: Any) -> tuple[str, str]:
    """Run an example DAG in this process; return the ids of DAG and run."""
    return dag_id, run(dag_of(dag_id), **conf).run_id


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Screens]:
    """Fill the database, and serve Airflow's UI without a login.

    :param folder: takes the videos
    """
    import uvicorn

    from airflow_vace.emulator import Emulator

    roots = folder / "videos"
    roots.mkdir(exist_ok=True)
    with (
        pytest.MonkeyPatch.context() as patch,
        Emulator(time_scale=0.0002) as emulator,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        prices = {"prunaai/vace-14b": {"per_run": 0.40}}
        patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", emulator.connection_to(prices=prices))
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a" * 64)
        patch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", f"{roots}/")
        patch.setenv("AIRFLOW__VACE__TASK_TAB", "True")
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        screens = Screens(address, folder, emulator)
        fill(screens, roots)
        from airflow.api_fastapi.app import create_app, purge_cached_app

        purge_cached_app()
        server = uvicorn.Server(uvicorn.Config(create_app(apps="all"), log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield screens
        finally:
            server.should_exit = True
            thread.join(30)
            purge_cached_app()


def fill(screens: Screens, roots: Path) -> None:
    """Make a run in each of the states."""
    faults, runs = screens.emulator.faults, screens.runs
    faults.add(method="POST", skip=2, times=1, outcome={"status": "failed", "error": "E1001 out of memory"})
    runs["campaign"] = tested(CAMPAIGN, save_to=f"{roots}/")
    runs["portrait"] = tested(TEXT, prompt="A lighthouse in a storm", size="480*832", save_to=f"{roots}/")
    faults.add("black_video")
    runs["regenerated"] = (REGENERATED, run(regenerating(f"{roots}/")).run_id)
    stored(dag_of(REVIEW))
    done = value_of(runs["portrait"], "wait")
    view = value_of(runs["portrait"], "submit", "vace_view")
    paid = done["cost"]

    def following(name: str, wait: str, **payload: Any) -> None:
        run_id = created(TEXT)
        runs[name] = (TEXT, run_id)
        submitting, waiting = (TEXT, run_id, "submit"), (TEXT, run_id, "wait")
        now = datetime.now(UTC)
        known = {**done, "id": f"p{name}", "files": [], "created_at": now.isoformat(), **payload}
        prompt = f"A paper boat on a quiet lake, {name}"
        started = {**known, "status": "starting", "completed_at": None, "output": None}
        shown = {**view, "prediction": started, "input": {**view["input"], "prompt": prompt}}
        put_xcom(submitting, "vace_view", shown)
        put_xcom(submitting, "return_value", started)
        set_state(submitting, "success")
        put_xcom(waiting, "vace_view", {**shown, "prediction": known, "input": {}})
        set_state(waiting, wait)
        if wait == "success":
            put_xcom(waiting, "return_value", known)

    long = (
        "E8765 the worker ran out of GPU memory while it decoded the last frames (tried to allocate 2.4 GiB;"
        " 79.2 GiB total, 1.1 GiB free)."
    )
    just_now = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    following("saving", "running", status="succeeded", completed_at=just_now)
    following("running", "deferred", status="processing", completed_at=None, output=None)
    following("failed", "failed", status="failed", error=long, output=None, cost=paid)
    elsewhere = [{"uri": "s3://my-bucket/clips/a.mp4", "size": 1_400_000, "content_type": "video/mp4"}]
    following("elsewhere", "success", status="succeeded", completed_at=just_now, files=elsewhere)
    run_id = created(REVIEW)
    runs["review"] = (REVIEW, run_id)
    put_xcom((REVIEW, run_id, "clip"), "vace_view", {**view, "prediction": done})
    put_xcom((REVIEW, run_id, "clip"), "return_value", done)
    set_state((REVIEW, run_id, "clip"), "success")
    ask_question((REVIEW, run_id, "review"), done)
    set_state((REVIEW, run_id, "review"), "deferred")
