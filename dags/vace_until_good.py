"""Takes until one is good: generate, check, judge, and again with the next seed; three takes at most.

`judge` has the facts of the check (extra `video` on the workers): put your own rule there. `max_cost` caps a
take, `[vace] max_cost_per_dag_run` all of them; both need `prices` in the connection `vace_default`.
`checks="regenerate"` on the operator does the automatic part in one task, without a judge of your own.
"""

from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import Param, dag, get_current_context, task

TAKES, SAVE_TO, MAX_COST = 3, "{{ params.save_to }}", "{{ params.max_cost }}"
PARAMS = {
    "prompt": Param("A red fox runs through fresh snow, low sun", type="string", minLength=1, title="Prompt"),
    "seed": Param(7, type="integer", minimum=0, title="Seed", description="The next take has the next one."),
    "min_brightness": Param(0.35, type="number", minimum=0, maximum=1, title="Least brightness, 0 to 1"),
    "max_cost": Param(None, type=["null", "number"], title="Greatest cost of a take"),
    "save_to": Param("~/vace-videos/until-good/", type="string", pattern="/$", title="Save to"),
}


@task.vace(wait_for_completion=True, deferrable=True, save_to=SAVE_TO, checks="warn", max_cost=MAX_COST)
def clip(number: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """Return the inputs of a take, unless the take before is good."""
    if before and not before["problems"]:
        raise AirflowSkipException("An earlier take is good")
    given = get_current_context()["params"]
    return {"prompt": given["prompt"], "seed": given["seed"] + number}


@task
def judge(take: dict[str, Any]) -> dict[str, Any]:
    """Return the address of a take, and the reasons against it."""
    facts = take["files"][0]["facts"]
    # A video that cannot be decoded has no facts but its problem.
    is_dark = facts.get("brightness", 1) < get_current_context()["params"]["min_brightness"]
    problems = facts["problems"] + ([f"a brightness of {facts['brightness']:.2f}"] if is_dark else [])
    return {"uri": take["files"][0]["uri"], "problems": problems}


@task(trigger_rule="none_failed_min_one_success")
def publish(takes: list[dict[str, Any] | None]) -> str:
    """Stand in for your pipeline's work on the good take."""
    for take in takes:
        if take and not take["problems"]:
            return str(take["uri"])
    raise RuntimeError(f"No take is good: {list(takes)}")


@dag(schedule=None, tags=["vace", "video"], doc_md=__doc__, params=PARAMS, dag_display_name="VACE: good take")
def vace_until_good() -> None:
    takes: list[Any] = []
    for number in range(TAKES):
        made: Any = clip.override(task_id=f"clip_{number + 1}")(number, takes[-1] if takes else None)
        takes.append(judge.override(task_id=f"judge_{number + 1}")(made))
    publish(takes)


vace_until_good()
