"""A video from a sentence: submit, wait without holding a worker, use the file.

Needs a connection `vace_default` of type `vace`. Trigger it in the UI: the form asks for the prompt.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor


@dag(
    schedule=None,
    tags=["vace", "video"],
    doc_md=__doc__,
    dag_display_name="VACE: text to video",
    params={
        "prompt": Param(
            "A red fox runs through fresh snow, low sun, shot from a fixed angle",
            type="string",
            minLength=1,
            title="Prompt",
            description="Content of the video.",
            format="multiline",
        ),
        "size": Param(
            "832*480",
            enum=["832*480", "480*832", "1280*720", "720*1280"],
            title="Size",
            description="Width*height in pixels.",
        ),
        "seed": Param(
            -1,
            type="integer",
            title="Seed",
            description="Same seed, same video; -1 for a random one.",
        ),
        "speed": Param(
            "lightly",
            enum=["lightly", "juiced", "extra"],
            title="Speed",
            description="lightly is the most consistent, extra the fastest.",
        ),
        "save_to": Param(
            "~/vace-videos/",
            type="string",
            pattern="/$",
            title="Save to",
            description="Local directory of the worker, with a slash at the end.",
        ),
    },
)
def vace_text_to_video() -> None:
    submit = VacePredictionOperator(
        task_id="submit",
        input={
            "prompt": "{{ params.prompt }}",
            "size": "{{ params.size }}",
            "seed": "{{ params.seed }}",
            "speed_mode": "{{ params.speed }}",
        },
    )
    wait = VacePredictionSensor(
        task_id="wait",
        prediction=submit.output,
        deferrable=True,
        timeout=3600,
        save_to="{{ params.save_to }}",
    )

    @task
    def use(prediction: dict[str, Any]) -> str:
        """Stand in for your pipeline's work on the video."""
        video = prediction["files"][0]
        print(f"{video['uri']}: {video['size']} bytes, sha256 {video['sha256']}")
        return str(video["uri"])

    use(wait.output)  # type: ignore[arg-type]  # Airflow resolves it before the call


vace_text_to_video()
