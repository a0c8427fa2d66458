"""A video with a person's approval before publication; a rejection starts another take, with the next seed.

A rejection refunds nothing, and the other take pays for another prediction, about $0.40.

Needs a connection `vace_default` of type `vace`. The request is on the run's tab *Required Actions*, with a
link to the video. Neither the prediction nor the wait for an answer, which may take days, holds a worker.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, dag, get_current_context, task

from airflow_vace.inputs import VaceInput

BODY = """
{% set video = "/dags/" ~ dag.dag_id ~ "/runs/" ~ run_id | urlencode ~ "/plugin/vace_videos" -%}
**{{ params.prompt }}** (seed {{ params.seed }})

[![The first frame](/vace/runs/{{ dag.dag_id }}/{{ run_id | urlencode }}/poster?task_id=clip)]({{ video }})

[Play the video]({{ video }}), saved as `{{ ti.xcom_pull(task_ids="clip")["files"][0]["uri"] }}`.

**A rejection costs about $0.40.** It starts another take with the next seed, a prediction that is paid too;
this one is not refunded.
"""


@dag(
    schedule=None,
    tags=["vace", "video"],
    doc_md=__doc__,
    dag_display_name="VACE: review",
    params={
        "prompt": Param(
            "A red fox runs through fresh snow, low sun, shot from a fixed angle",
            type="string",
            minLength=1,
            title="Prompt",
            description="Content of the video.",
            format="multiline",
        ),
        "seed": Param(
            7, type="integer", minimum=0, title="Seed", description="The next take has the next one."
        ),
        "save_to": Param(
            "~/vace-videos/review/",
            type="string",
            pattern="/$",
            title="Save to",
            description="Local directory of the worker, with a slash at the end.",
        ),
    },
)
def vace_review() -> None:
    @task.vace(wait_for_completion=True, deferrable=True, save_to="{{ params.save_to }}")
    def clip() -> VaceInput:
        """Return the inputs of this take."""
        params = get_current_context()["params"]
        return {"prompt": params["prompt"], "seed": params["seed"]}

    review = ApprovalOperator(task_id="review", subject="May this video be published?", body=BODY)

    @task
    def publish(prediction: dict[str, Any]) -> str:
        """Stand in for your pipeline's work on an approved video."""
        uri = str(prediction["files"][0]["uri"])
        print(f"Published {uri}")
        return uri

    # A rejection skips the publication, and only then another take starts: a new run, which is paid.
    again = TriggerDagRunOperator(
        task_id="again",
        trigger_dag_id="vace_review",
        conf="{{ dict(params, seed=params.seed + 1) | tojson }}",  # type: ignore[arg-type]  # text is read
        trigger_rule="all_skipped",
    )

    taken = clip()
    published = publish(taken)  # type: ignore[arg-type]  # Airflow resolves it before the call
    taken >> review >> published >> again


vace_review()
