"""Restyle every video of a library, keep the results beside the originals, and start another DAG for each.

Needs a connection `vace_default` of type `vace`, and for a library in a store the store's connection in the
library's address, such as `s3://aws_default@my-bucket/videos/`. A local library must be below a directory in
the connection's extra `input_roots`.

Each finished video is an event of the asset `vace_restyled_videos`, with address, checksum and seed, and with
the original's name as label; `vace_restyled_catalog`, also in this file, runs on the event.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, ObjectStoragePath, Param, dag, get_current_context, task

from airflow_vace.operators import VacePredictionOperator

RESTYLED = Asset(name="vace_restyled_videos", uri="x-vace://restyled-videos")


@dag(
    schedule=None,
    tags=["vace", "video"],
    doc_md=__doc__,
    dag_display_name="VACE: restyled library",
    params={
        "library": Param(
            "s3://aws_default@my-bucket/videos/",
            type="string",
            pattern="^[a-z0-9]+://.*/$",
            title="Library",
            description="Directory of the videos, with a slash at the end.",
        ),
        "style": Param(
            "hand-painted watercolour, soft light",
            type="string",
            minLength=1,
            title="Style",
            description="The style of the new videos.",
        ),
        "most": Param(
            20,
            type="integer",
            minimum=1,
            maximum=1000,
            title="Videos at most",
            description="Each is paid for.",
        ),
    },
)
def vace_restyle_library() -> None:
    @task
    def videos() -> list[dict[str, Any]]:
        """Return the inputs of a prediction for each video."""
        params = get_current_context()["params"]
        library = ObjectStoragePath(params["library"])
        found = sorted(path.name for path in library.iterdir() if path.suffix.lower() == ".mp4")
        print(f"{len(found)} videos in {library}, of which {params['most']} at most are restyled")
        return [
            {
                "prompt": params["style"],
                "src_video": f"{params['library']}{name}",
                "speed_mode": "juiced",
                "seed": 7,
            }
            for name in found[: params["most"]]
        ]

    VacePredictionOperator.partial(
        task_id="restyle",
        wait_for_completion=True,
        deferrable=True,
        save_to="{{ params.library }}restyled/",
        label="{{ task.input['src_video'].rpartition('/')[2] }}",
        max_active_tis_per_dagrun=8,
        outlets=[RESTYLED],
    ).expand(input=videos())


@dag(
    schedule=[RESTYLED],
    tags=["vace", "video"],
    doc_md="Catalogs the videos of `vace_restyle_library`.",
    dag_display_name="VACE: catalog of restyled videos",
)
def vace_restyled_catalog() -> None:
    @task
    def catalog() -> list[dict[str, Any]]:
        """Stand in for your pipeline's work on each new video."""
        events = get_current_context()["triggering_asset_events"][RESTYLED]
        entries = [dict(event.extra) for event in events]
        for entry in entries:
            print(f"{entry['label']}: {entry['uri']}, sha256 {entry['sha256']}, seed {entry['seed']}")
        return entries

    catalog()


vace_restyle_library()
vace_restyled_catalog()
