"""A clip for each row of a CSV file, all in one task; a failed clip does not affect the rest.

`vace_catalogue.csv` beside this file is a sample. The columns of the model's inputs (`prompt`, `seed`) are
sent, an empty cell is "not given", and the other columns (`sku`, `price`) stand in the manifest beside the
result. The key `sku` names each file, as in `TR-101.mp4`.

With `reuse="saved"` a further run pays for new and changed rows only: the file of an equal row is the result.
Each run is an event of the asset `vace_catalogue_videos`, with counts and manifest.

Needs a connection `vace_default` of type `vace`. `max_in_flight` bounds the predictions that run at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import Asset, Param, dag, task

from airflow_vace.batch import read_manifest
from airflow_vace.operators import VaceBatchOperator

VIDEOS = Asset(name="vace_catalogue_videos", uri="x-vace://catalogue-videos")


@task
def summary(batch: dict[str, Any]) -> dict[str, str | None]:
    """Return the address of each product's clip, None after a failure."""
    clips: dict[str, str | None] = {}
    for row in read_manifest(batch["manifest"]):
        clips[row["key"]] = row["files"][0]["uri"] if row["files"] else None
        print(f"{row['key']} ({row.get('price')}): {clips[row['key']] or row['error']}")
    print(f"{batch['counts']}; all rows: {batch['manifest']}")
    return clips


@dag(
    schedule=None,
    tags=["vace", "video"],
    doc_md=__doc__,
    dag_display_name="VACE: catalogue",
    params={
        "catalogue": Param(
            str(Path(__file__).with_name("vace_catalogue.csv")),
            type="string",
            pattern=r"\.(csv|jsonl|ndjson)$",
            title="Catalogue",
            description="Path of a CSV or JSON Lines file with sku and prompt, local or in a store.",
        ),
        "save_to": Param(
            "~/vace-videos/catalogue/",
            type="string",
            pattern="/$",
            title="Save to",
            description="Local directory of the worker, with a slash at the end.",
        ),
    },
)
def vace_catalogue() -> None:
    clips = VaceBatchOperator(
        task_id="clips",
        inputs="{{ params.catalogue }}",
        key="sku",
        save_to="{{ params.save_to }}",
        min_success=0.5,
        reuse="saved",
        deferrable=True,
        outlets=[VIDEOS],
    )
    summary(clips.output)  # type: ignore[arg-type]  # Airflow resolves it before the call


vace_catalogue()
