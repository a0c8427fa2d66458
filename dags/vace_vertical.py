"""A library of landscape clips in portrait for social media, in one batch: the model paints the rest.

A further run pays for new clips only. Needs a connection `vace_default`, and the extra `video` on workers.
Canvases have megabytes: save to a store, or list the directory in the connection's extra `input_roots`.
"""

from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath, Param, dag, get_current_context, task

from airflow_vace.batch import read_manifest
from airflow_vace.operators import VaceBatchOperator
from airflow_vace.video_files import outpaint

PARAMS = {
    "library": Param(f"{Path(__file__).parent}/vace_library/", type="string", pattern="/$", title="Library"),
    "prompt": Param("A wide sky above, asphalt in front, natural light", type="string", title="Surroundings"),
    "size": Param("480*832", enum=["480*832", "720*1280"], title="Size"),
    "save_to": Param("~/vace-videos/vertical/", type="string", pattern="/$", title="Save to"),
    "min_share": Param(1.0, type="number", minimum=0, maximum=1, title="Share that must succeed"),
}
BATCH: Any = {"save_to": "{{ params.save_to }}", "min_success": 0, "reuse": "saved", "deferrable": True}


@task
def clips() -> list[str]:
    """Return the names of the clips, local or in a store such as `s3://aws_default@bucket/clips/`."""
    library = ObjectStoragePath(get_current_context()["params"]["library"])
    return sorted(path.name for path in library.iterdir() if path.suffix == ".mp4")


@task(map_index_template="{{ task.op_kwargs['name'] }}")
def canvas(name: str) -> dict[str, Any]:
    """Return a row of the batch: the clip on its canvas, and its name as key."""
    given, clip = get_current_context()["params"], Path(name).stem
    to = f"{given['save_to']}canvases/{clip}/"
    made = outpaint(f"{given['library']}{name}", size=given["size"], to=to)
    return {**made, "prompt": given["prompt"], "seed": 7, "clip": clip}


@task(trigger_rule="all_done")
def summary(names: list[str], batch: dict[str, Any] | None) -> dict[str, str | None]:
    """Return the portrait of each clip; fail if more than the allowed share is missing."""
    rows = {row["key"]: row["files"] for row in (read_manifest(batch["manifest"]) if batch else ())}
    found = {name: next((file["uri"] for file in rows.get(Path(name).stem, ())), None) for name in names}
    share = sum(uri is not None for uri in found.values()) / max(len(names), 1)
    if share < get_current_context()["params"]["min_share"]:
        raise RuntimeError(f"Portraits are missing: {found}")
    return found


@dag(schedule=None, tags=["vace", "video"], doc_md=__doc__, params=PARAMS, dag_display_name="VACE: vertical")
def vace_vertical() -> None:
    rows = canvas.expand(name=(names := clips()))
    made = VaceBatchOperator(task_id="portraits", inputs=rows, key="clip", trigger_rule="all_done", **BATCH)
    summary(names, made.output)  # type: ignore[arg-type]  # Airflow resolves it


vace_vertical()
