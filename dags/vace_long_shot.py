"""One long shot: four clips, each from the last second of the one before, joined to one film.

Needs a connection `vace_default`, and the extra `video` on the workers. Control videos have megabytes: save
to a store, or list the directory in the connection's extra `input_roots`.
"""

from typing import Any

from airflow.sdk import Param, dag, get_current_context, task, task_group

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.video_files import extend, join

OVERLAP, SAVE_TO = 17, "{{ params.save_to }}"
SCENES = [
    "A red fox wakes up in fresh snow, low sun, slow tracking shot",
    "The fox trots along a frozen stream, the camera follows",
    "The fox jumps over a fallen tree, the camera follows",
    "The fox stops at the edge of a village at dusk, lights in the windows",
]
PARAMS = {
    "scenes": Param(SCENES, type="array", minItems=len(SCENES), maxItems=len(SCENES), title="Scenes"),
    "save_to": Param("~/vace-videos/long-shot/", type="string", pattern="/$", title="Save to"),
}


@task
def scene(number: int = 0, before: dict[str, Any] | None = None, *, loop: Any = None) -> dict[str, Any]:
    """Return the inputs of a clip that begins with the end of the clip before."""
    given = get_current_context()["params"]
    number, before = (loop.index, loop.previous) if loop else (number, before)
    to = f"{given['save_to']}control/{before['id']}/" if before else ""
    kept: Any = extend(before["files"][0]["uri"], overlap=OVERLAP, to=to) if before else {}
    return {**kept, "prompt": given["scenes"][number], "seed": 7}


@task_group
def shot(number: int = 0, before: Any = None) -> Any:
    """Make one clip."""
    wait: Any = {"wait_for_completion": True, "deferrable": True}
    return VacePredictionOperator(task_id="clip", input=scene(number, before), save_to=SAVE_TO, **wait).output  # type: ignore[arg-type]


@task
def film(clips: list[dict[str, Any]]) -> str:
    """Return the address of the joined clips."""
    to = f"{get_current_context()['params']['save_to']}film-{clips[0]['id']}.mp4"
    return join([clip["files"][0]["uri"] for clip in clips], overlap=OVERLAP, to=to)


@dag(schedule=None, tags=["vace", "video"], doc_md=__doc__, params=PARAMS, dag_display_name="VACE: long shot")
def vace_long_shot() -> None:
    clips: list[Any] = []
    # A task loop on Airflow 3.4, a chain before.
    for number in range(0 if hasattr(shot, "loop") else len(SCENES)):
        clips.append(shot.override(group_id=f"shot_{number + 1}")(number, clips[-1] if clips else None))
    film(clips or shot.loop(max_iterations=len(SCENES)).children["shot.clip"].output)  # type: ignore[attr-defined]


vace_long_shot()
