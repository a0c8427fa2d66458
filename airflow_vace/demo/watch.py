"""One run of the demo's DAG in a child process, and its progress for the terminal."""

from __future__ import annotations

import json
import re
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_vace.interrupts import pause
from airflow_vace.progress import Progress
from airflow_vace.throwaway import dags_folder, started

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator
    from airflow_vace.terminal import Steps

DAG_ID = "vace_text_to_video"
_LOOK_SECONDS = 0.2
_SUBMITTED = re.compile(r"Submitted prediction (\S+)")
_STATUS = re.compile(r"Prediction \S+: (\w+)(?:, (\d+) %, step (\d+) of (\d+)(?:.*, (\d+) s left)?)?")


@dataclass(frozen=True)
class Sight:
    """The visible state of a prediction.

    :param status: such as `processing`
    :param progress: None without a progress bar
    """

    id: str
    status: str
    progress: Progress | None = None

    @property
    def words(self) -> str:
        """The progress in the words of the task's log."""
        progress = self.progress
        if progress is None:
            return ""
        left = "" if progress.eta is None else f", {progress.eta:.0f} s left"
        return f"{progress.percent} %, step {progress.step} of {progress.steps}{left}"


def watch(
    steps: Steps, home: Path, environment: dict[str, str], conf: dict[str, Any], emulator: Emulator | None
) -> dict[str, Any]:
    """Run the DAG in a child process, show its steps, and return `{"state", "prediction"}`.

    :param steps: shows the progress
    :param home: directory of the result and of the log
    :param conf: the run's parameters
    :param emulator: None for a real vendor
    """
    result, log = home / "result.json", home / "demo.log"
    # A child process, since Airflow reads its configuration once, at the first import.
    code = "import sys; from airflow_vace.demo.watch import run_dag; run_dag(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, str(result), json.dumps(conf)]
    steps.begin("Starting Airflow")
    before: Sight | None = None
    with started(command, environment, log) as process:
        while process.poll() is None:
            # A real back-end's progress is only in the log; the emulator's is at hand.
            sight = _emulated(emulator) if emulator else logged(log)
            _show(steps, before, sight)
            before = sight
            pause(_LOOK_SECONDS)
        if not result.exists():
            return {"state": f"broken off (exit code {process.returncode})", "prediction": None}
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _show(steps: Steps, before: Sight | None, sight: Sight | None) -> None:
    """Show the difference between two sights of the prediction."""
    if sight is None:
        return
    if before is None:
        steps.done(f"Airflow runs the DAG {DAG_ID}")
    if before is None or before.status != sight.status:
        if sight.status == "succeeded":
            steps.done(f"Prediction {sight.id} has succeeded")
        steps.begin("Saving the video" if sight.status == "succeeded" else f"Prediction {sight.status}")
    if sight.progress is not None and sight.status == "processing":
        steps.update(sight.words, sight.progress.percent)


def _emulated(emulator: Emulator) -> Sight | None:
    run = next(iter(emulator.world.runs.values()), None)
    if run is None:
        return None
    now = time.time()
    progress = Progress.from_logs(run.timeline.logs_at(now), run.timeline.steps)
    return Sight(run.id, run.status_at(now), progress if progress and progress.is_of_steps else None)


def logged(log: Path) -> Sight | None:
    """Return the prediction's last state in a task's log, None before the create."""
    text = log.read_text(errors="replace") if log.exists() else ""
    submitted = _SUBMITTED.search(text)
    if submitted is None:
        return None
    lines = _STATUS.findall(text)
    bars = [line for line in lines if line[1]]
    if not bars:
        return Sight(submitted[1], lines[-1][0] if lines else "starting")
    status = lines[-1][0]
    _, percent, step, total, left = bars[-1]
    progress = Progress(int(percent), int(step), int(total), eta=float(left) if left else None)
    return Sight(submitted[1], status, progress)


def run_dag(result: str, conf: str) -> None:
    """Run the DAG with `dag.test()`; write the run's state and the sensor's payload to a file.

    :param result: path of the file
    :param conf: the run's parameters as JSON
    """
    dag = runpy.run_path(str(dags_folder() / f"{DAG_ID}.py"))[DAG_ID]()
    run = dag.test(run_conf=json.loads(conf))
    prediction = run.get_task_instance("wait").xcom_pull(task_ids="wait")
    Path(result).write_text(json.dumps({"state": str(run.state), "prediction": prediction}))
