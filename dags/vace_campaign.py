"""A clip for each product of a campaign, in parallel; a failed clip does not affect the rest.

Airflow hands on the results of a mapped task without the failed instances. Each clip therefore carries
the product's name as label, and the summary pairs by label. The last task of a run decides the run's
state, so the summary fails if too many clips are missing, and prints the reason of each.

Needs a connection `vace_default` of type `vace`. Limit the number of concurrent clips with
`max_active_tis_per_dagrun` or with a pool, within your account's limits.

The same twice: `vace_campaign` with the operator, `vace_campaign_taskflow` with `@task.vace`.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from airflow_vace.inputs import VaceInput
from airflow_vace.operators import VacePredictionOperator

PRODUCTS = [
    {"name": "Trail shoe", "image": "https://example.com/products/trail-shoe.png"},
    {"name": "Rain jacket", "image": "https://example.com/products/rain-jacket.png"},
    {"name": "Head lamp", "image": "https://example.com/products/head-lamp.png"},
]

PARAMS = {
    "products": Param(
        PRODUCTS,
        type="array",
        minItems=1,
        title="Products",
        description="Objects with a name and the URL of an image.",
        items={
            "type": "object",
            "required": ["name", "image"],
            "properties": {"name": {"type": "string"}, "image": {"type": "string"}},
        },
    ),
    "place": Param("on a wet mountain path at dawn", type="string", title="Place"),
    "save_to": Param(
        "~/vace-videos/campaign/",
        type="string",
        pattern="/$",
        title="Save to",
        description="Local directory of the worker, with a slash at the end.",
    ),
    "min_share": Param(0.9, type="number", minimum=0, maximum=1, title="Share that must succeed"),
}


def shot_of(product: dict[str, str], place: str) -> VaceInput:
    """Return the inputs of a product's clip."""
    return {
        "prompt": f"{product['name']} {place}, slow tracking shot",
        "src_ref_images": [product["image"]],
        "speed_mode": "extra",
        "seed": 7,
    }


@task(trigger_rule="all_done")
def summary(clips_made: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the clip of each product, None after a failure."""
    context: Any = get_current_context()
    found = {clip["label"]: clip["files"][0]["uri"] for clip in clips_made}
    clips: dict[str, Any] = {}
    for number, product in enumerate(context["params"]["products"]):
        uri = clips[product["name"]] = found.get(product["name"])
        # The number of an instance is the place of its product, and a failed one has the reason in its view.
        view = None if uri else context["ti"].xcom_pull(task_ids="clip", key="vace_view", map_indexes=number)
        print(f"{product['name']}: {uri or (view['error'] if view else 'its task has not run')}")
    if len(found) < context["params"]["min_share"] * len(clips):
        raise RuntimeError(f"{len(found)} of {len(clips)} clips succeeded: {clips}")
    return clips


@dag(schedule=None, tags=["vace", "video"], doc_md=__doc__, params=PARAMS, dag_display_name="VACE: campaign")
def vace_campaign() -> None:
    @task
    def clips_wanted() -> list[dict[str, Any]]:
        """Return inputs and label of each product's clip."""
        params = get_current_context()["params"]
        return [
            {"input": shot_of(product, params["place"]), "label": product["name"]}
            for product in params["products"]
        ]

    clips = VacePredictionOperator.partial(
        task_id="clip",
        wait_for_completion=True,
        deferrable=True,
        save_to="{{ params.save_to }}",
        max_active_tis_per_dagrun=8,
    ).expand_kwargs(clips_wanted())

    summary(clips.output)  # type: ignore[arg-type]  # Airflow resolves it before the call


@dag(
    schedule=None,
    tags=["vace", "video"],
    doc_md=__doc__,
    params=PARAMS,
    dag_display_name="VACE: campaign (@task.vace)",
)
def vace_campaign_taskflow() -> None:
    @task
    def products() -> list[dict[str, str]]:
        """Return the products, as your catalogue might."""
        found: list[dict[str, str]] = get_current_context()["params"]["products"]
        return found

    @task.vace(
        wait_for_completion=True,
        deferrable=True,
        save_to="{{ params.save_to }}",
        label="{{ task.op_kwargs['product']['name'] }}",
        max_active_tis_per_dagrun=8,
    )
    def clip(product: dict[str, str]) -> VaceInput:
        """Return the inputs of a clip."""
        # Runs once in each attempt: an equal return value lets a retry continue the paid prediction.
        return shot_of(product, get_current_context()["params"]["place"])

    summary(clip.expand(product=products()))  # type: ignore[arg-type]  # likewise


vace_campaign()
vace_campaign_taskflow()
