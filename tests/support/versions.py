"""Run attempts of tasks on another version of the package, in another process.

`python -m support.versions write FOLDER` runs the first attempt of each task in :data:`TASKS`, until its end,
its deferral or a kill; `read` goes on with each. State store, deferrals and results are files in the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.tasks import Run

TESTS = Path(__file__).parents[1]
# The last release: its records, trigger rows and events are in users' databases.
RELEASED = "dcf797e"
# The last version that stored all kwargs of a trigger, defaults included.
OLDEST = "cda21dc"

# `submitted`: killed at the first poll. `settled`: ended well. `intent` and `unlisted`: killed after the
# create, on a back-end that lists its predictions and on one that does not. `deferred`: waits in a triggerer.
# `resumed`: the triggerer has noticed the end.
TASKS = ("submitted", "settled", "intent", "unlisted", "deferred", "resumed")


def unpack(commit: str, folder: Path) -> Path:
    """Return a new folder with the package of a commit; skip the test if the clone lacks the commit."""
    command = ["git", "archive", commit, "airflow_vace"]
    archive = subprocess.run(command, cwd=TESTS.parent, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"commit {commit} is not in this clone")
    folder.mkdir()
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def start(code: Path, step: str, folder: Path, connections: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start this program on the package in the folder `code`."""
    path = {"PYTHONPATH": os.pathsep.join([str(code), str(TESTS)])}
    environment = {**os.environ, **connections, **path}
    command = [sys.executable, "-m", "support.versions", step, str(folder)]
    with (folder / f"{step}.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def _run_of(name: str, folder: Path) -> Run:
    from airflow_vace.operators import VacePredictionOperator
    from support.tasks import Run, Store

    class FileStore(Store):
        """A state store that outlives the process."""

        path = folder / f"{name}.store"

        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            super().set(key, value, retention=retention)
            self.path.write_text(json.dumps(self.rows))

    store = FileStore()
    if store.path.exists():
        store.rows = json.loads(store.path.read_text())

    def task() -> VacePredictionOperator:
        return VacePredictionOperator(
            task_id=name,
            vace_conn_id=name,
            input={"prompt": "a fox"},
            wait_for_completion=True,
            deferrable=name in ("deferred", "resumed"),
        )

    return Run(task, store)


def write(name: str, folder: Path) -> dict[str, Any]:
    """Return the end of a task's first attempt."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    from support.tasks import event_of

    run = _run_of(name, folder)
    try:
        return {"result": run.leg().execute(run.context)}
    except TaskDeferred as deferred:
        path, row = deferred.trigger.serialize()
        given = {"path": path, "row": row, "method": deferred.method_name, "kwargs": deferred.kwargs or {}}
        event = event_of(json.loads(json.dumps(row))) if name == "resumed" else None
        return given | {"xcoms": run.ti.xcoms, "event": event}


def read(name: str, folder: Path) -> dict[str, Any]:
    """Return the end of a task after another version's first attempt."""
    from support.tasks import event_of

    run = _run_of(name, folder)
    known = folder / f"{name}.write"
    before = json.loads(known.read_text()) if known.exists() else {}
    try:
        if "row" not in before:
            return {"result": run.retried().result()}
        run.ti.xcoms = before["xcoms"]
        event = before["event"] or event_of(before["row"])
        kwargs = before["kwargs"] | {"event": event}
        return {"result": run.leg().resume_execution(before["method"], kwargs, run.context)}
    except Exception as error:  # noqa: BLE001 - the test judges it
        return {"error": f"{type(error).__name__}: {error}", "cause": type(error.__cause__).__name__}


def main(step: str, folder: Path) -> None:
    """Take one step with all tasks at once, since some wait until a kill."""
    import airflow_vace

    def take(name: str) -> None:
        outcome = {"write": write, "read": read}[step](name, folder) | {"code": airflow_vace.__file__}
        part = folder / f"{name}.{step}.part"
        part.write_text(json.dumps(outcome))
        part.rename(folder / f"{name}.{step}")

    threads = [threading.Thread(target=take, args=(name,)) for name in TASKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
