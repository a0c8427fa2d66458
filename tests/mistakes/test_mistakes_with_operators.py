"""Mistakes in the parameters of the operator and of the decorator."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.decorators import vace_task
from airflow_vace.operators import VacePredictionOperator
from support.mistakes import Mistake, Scene, row
from support.tasks import HAS_STORE

if TYPE_CHECKING:
    from collections.abc import Callable


def _submit(**kwargs: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.submit(**kwargs)


def _save(**kwargs: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.video(**{"save_to": f"{scene.folder}/clips/", **kwargs})


def _save_below_a_file(scene: Scene) -> object:
    (scene.folder / "clips").write_text("a file")
    return scene.video(save_to=f"{scene.folder}/clips/")


def _priced(model: str, price: Any, **kwargs: Any) -> Callable[[Scene], object]:
    """Return a mistake with the price of a model in the connection."""

    def make(scene: Scene) -> object:
        scene.connect({"prices": {model: price}})
        return scene.submit(**kwargs)

    return make


def _operator_of(function: Callable[[], Any]) -> Any:
    return function().operator


def _returned(value: Any) -> Callable[[Scene], object]:
    """Return a mistake in the return value of a function."""

    def make(scene: Scene) -> object:
        @vace_task
        def clip() -> Any:
            return value

        return scene.run(lambda: _operator_of(clip))

    return make


def _coroutine(scene: Scene) -> object:
    @vace_task  # type: ignore[arg-type]  # the mistake
    async def clip() -> str:
        return "a fox"

    return scene.run(lambda: _operator_of(clip))


def _by_hand(_: Scene) -> None:
    """Call a task outside of Airflow, with an empty context."""
    VacePredictionOperator(task_id="t", input={"prompt": "a fox"}).execute({})


FREE = "Nothing was sent, nothing is billed"
MODEL = "prunaai/vace-14b"
PARSED: dict[str, Any] = {"outcome": "import error"}
SECONDS = "a positive number of seconds or a timedelta"
AMOUNT = ("no amount of money", "such as 12.50", "Nothing was submitted")
STORE = ("nowhere://bucket/", "can't be opened here", "install Airflow's provider")
MISTAKES = (
    row(
        "`save_to` without a wait",
        _submit(save_to="/data/clips/"),
        "save_to",
        "wait_for_completion=True",
        **PARSED,
    ),
    row(
        "`save_in='triggerer'` without `deferrable`",
        _save(save_in="triggerer"),
        *("save_in='triggerer'", "deferrable=True"),
        **PARSED,
    ),
    row("an unknown `save_in`", _save(save_in="s3"), "save_in is 's3'", "'worker' or 'triggerer'", **PARSED),
    row(
        "`end_from_trigger` with a video to save",
        _save(deferrable=True, end_from_trigger=True),
        *("end_from_trigger=True", "save_in='triggerer'", "leave it out"),
        **PARSED,
    ),
    row(
        "a text as `end_from_trigger`",
        _save(end_from_trigger="true"),
        "end_from_trigger is 'true'",
        "True",
        **PARSED,
    ),
    row("a text as `deferrable`", _save(deferrable="yes"), "deferrable is 'yes'", "True or False", **PARSED),
    row("a text as `durable`", _submit(durable="no"), "durable is 'no'", "True or False", **PARSED),
    row(
        "a template as `wait_for_completion`",
        _submit(wait_for_completion="{{ params.wait }}"),
        *("wait_for_completion is '{{ params.wait }}'", "True or False", "no template"),
        **PARSED,
    ),
    row("a negative `timeout`", _submit(timeout=-5), "timeout is -5", SECONDS, **PARSED),
    row("0 as `timeout`", _submit(timeout=0), "timeout is 0", SECONDS, **PARSED),
    row("a negative timedelta", _submit(timeout=timedelta(minutes=-5)), "timeout is -300", SECONDS, **PARSED),
    row("`timeout` in words", _submit(timeout="10 minutes"), "timeout is '10 minutes'", SECONDS, **PARSED),
    row(
        "a template as `timeout`",
        _submit(timeout="{{ params.s }}"),
        "timeout is '{{",
        "no template",
        **PARSED,
    ),
    row("a negative `poll_interval`", _submit(poll_interval=-1), "poll_interval is -1", SECONDS, **PARSED),
    row("a list as `poll_interval`", _submit(poll_interval=[5]), "poll_interval is [5]", SECONDS, **PARSED),
    row(
        "an unknown mode of `checks`",
        _save(checks="strict"),
        "checks is 'strict'",
        "'warn'",
        "'fail'",
        **PARSED,
    ),
    row("True as `checks`", _save(checks=True), "checks is True", "'warn'", "'fail'", **PARSED),
    row("`checks` without `save_to`", _submit(checks="fail"), "checks need save_to", **PARSED),
    row(
        "a text as `check`", _save(check="black"), "check is 'black'", "function of facts and path", **PARSED
    ),
    row(
        "`max_regenerations` alone",
        _save(max_regenerations=2),
        *("max_regenerations is 2", "set checks='regenerate' too"),
        **PARSED,
    ),
    row(
        "50 regenerations",
        _save(checks="regenerate", max_regenerations=50),
        *("max_regenerations is 50", "from 1 to 10"),
        **PARSED,
    ),
    row("an unknown `reuse`", _save(reuse="always"), "reuse is 'always'", "True, False or 'saved'", **PARSED),
    row(
        "`reuse='saved'` with a directory",
        _save(reuse="saved"),
        "/clips/'",
        "name a file in save_to",
        **PARSED,
    ),
    row(
        "an unknown `on_orphaned_intent`",
        _submit(on_orphaned_intent="retry"),
        *("on_orphaned_intent is 'retry'", "'fail' or 'resubmit'"),
        **PARSED,
    ),
    row("a negative `max_cost`", _submit(max_cost=-1), "max_cost is -1", *AMOUNT, **PARSED),
    row("True as `max_cost`", _submit(max_cost=True), "max_cost is True", *AMOUNT, **PARSED),
    row("`max_cost` in words", _submit(max_cost="one dollar"), "max_cost is 'one dollar'", *AMOUNT),
    row("`max_cost` with a sign", _submit(max_cost="$2"), "max_cost is '$2'", *AMOUNT),
    row(
        "`max_cost` without a price",
        _submit(max_cost=1),
        "max_cost",
        f"no price for {MODEL}",
        "set prices in",
    ),
    row(
        "a price for another model",
        _priced("prunaai/vace-41b", {"per_run": 0.4}, max_cost=1),
        *("max_cost", f"no price for {MODEL}", "set prices in the connection's extra"),
    ),
    row(
        "`max_cost` below the price",
        _priced(MODEL, {"per_run": 0.4}, max_cost=0.1),
        *("$0.40", "max_cost=$0.10", "raise max_cost"),
    ),
    row("a number as price", _priced(MODEL, 0.4), "prices", MODEL, "0.4", '"per_run": 0.40'),
    row(
        "an unknown unit of a price",
        _priced(MODEL, {"per_clip": 1}),
        "prices",
        "'per_clip'",
        '"per_run": 0.40',
    ),
    row(
        "a relative `save_to`",
        _save(save_to="clips/"),
        "save_to is 'clips/'",
        "not absolute",
        "'/data/clips/'",
        FREE,
    ),
    row(
        "`save_to` without a slash", _save(save_to="/data/clips"), "'/data/clips'", "a slash at its end", FREE
    ),
    row(
        "a file in place of the directory",
        _save_below_a_file,
        "save_to",
        "Not a directory",
        "give a directory",
        FREE,
    ),
    row(
        "a directory without permission", _save(save_to="/proc/clips/"), "'/proc/clips/", "may write to", FREE
    ),
    row("an unknown scheme", _save(save_to="nowhere://bucket/"), "save_to", *STORE, FREE),
    row(
        "a store without its provider",
        _save(save_to="gs://bucket/"),
        "save_to",
        "gs://bucket/",
        "-google",
        FREE,
    ),
    row(
        "a store without its connection",
        _save(save_to="memory://no@b/"),
        "save_to",
        "`no`",
        "add the connection",
    ),
    row(
        "a store without a bucket",
        _save(save_to="s3:///clips/"),
        "'s3:///clips/'",
        "'s3://bucket/clips/'",
        FREE,
    ),
    row("a number as `save_to`", _save(save_to=5), "save_to is 5", "'/data/clips/'", FREE),
    row("an unknown parameter", _submit(prompt="a fox"), "Invalid arguments", "'prompt'", **PARSED),
    row(
        "a text in `expand`",
        lambda scene: scene.run(lambda: VacePredictionOperator.partial(task_id="t").expand(input="a fox")),
        *("expand()", "'str'", "input"),
        **PARSED,
    ),
    row(
        "a function that returns nothing",
        _returned(None),
        "'clip'",
        "returned nothing",
        "return a dict",
        FREE,
    ),
    row("a function that returns an empty text", _returned(""), "'clip'", "''", "return a dict", FREE),
    row("a function that returns a number", _returned(5), "'clip'", "'5'", "return a dict", FREE),
    row(
        "a function without a prompt",
        _returned({"seed": 5}),
        "'prompt' is missing",
        "describe the content",
        FREE,
    ),
    row("a coroutine", _coroutine, "'clip'", "is a coroutine", "define it with `def`", **PARSED),
    row(
        "`execute({})` by hand",
        _by_hand,
        *("no task_state_store" if HAS_STORE else "below 3.3", "may pay again"),
        outcome="warns",
        posts=1,
        billed=1,
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_in_an_operator_is_explained(mistake: Mistake, explain: Any) -> None:
    explain(mistake)
