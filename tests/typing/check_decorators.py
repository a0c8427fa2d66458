"""Types of `@task.vace` and its inputs, for the session `types`; no test runs this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_vace.decorators import VaceInput, vace_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import XComArg


@vace_task
def bare(name: str) -> VaceInput:
    return {"prompt": f"a shoe named {name}", "size": "1280*720", "seed": 7}


@vace_task(
    model="a/b", wait_for_completion=True, deferrable=True, save_to="clips/", save_in="triggerer", retries=2
)
def configured(name: str, count: int = 1) -> dict[str, Any]:
    return {"prompt": name * count}


@vace_task()
def of_a_prompt() -> str:
    return "a fox"


def the_function_keeps_its_parameters() -> None:
    outputs: list[XComArg] = [bare("x"), configured("x", count=2), of_a_prompt()]
    assert outputs
    bare(1)  # type: ignore[arg-type]
    bare()  # type: ignore[call-arg, misc]
    configured("x", size=2)  # type: ignore[call-arg]
    bare.expand(name=["x", "y"])
    configured.partial(name="x").expand(count=[1, 2])
    bare.override(task_id="again")("x")


def the_function_returns_inputs(number: Callable[[], int]) -> None:
    vace_task(number)  # type: ignore[arg-type]
    vace_task(save_in="anywhere")  # type: ignore[call-overload]


def inputs_are_those_of_the_model() -> None:
    whole: VaceInput = {
        "prompt": "a fox",
        "src_video": "s3://bucket/in.mp4",
        "src_mask": "s3://bucket/mask.mp4",
        "src_ref_images": ["s3://bucket/one.png"],
        "size": "1280*720",
        "frame_num": 81,
        "speed_mode": "extra",
        "sample_steps": 50,
        "sample_solver": "unipc",
        "sample_shift": 16,
        "sample_guide_scale": 5.0,
        "seed": -1,
    }
    assert whole
    without_a_prompt: VaceInput = {"seed": 7}  # type: ignore[typeddict-item]
    misspelt: VaceInput = {"prompt": "a fox", "sead": 7}  # type: ignore[typeddict-unknown-key]
    assert without_a_prompt != misspelt
