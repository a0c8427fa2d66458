"""`@task.vace`: return values, calls once in each attempt, and retries."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout
from airflow.sdk import DAG, task

from airflow_vace.decorators import VaceInput, vace_task
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import FIELDS
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.task.view import VIEW_KEY
from support.tasks import Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")


def made_of(function: Callable[..., Any], *args: Any, **parameters: Any) -> Callable[[], Any]:
    """Return what makes the task of a function, as each of its processes does."""

    def make() -> Any:
        with DAG("d", schedule=None):
            return vace_task(**parameters)(function)(*args).operator

    return make


def returning(value: Any) -> Callable[[], Any]:
    def clip() -> Any:
        return value

    return clip


def test_the_decorator_is_airflows_by_its_name() -> None:
    assert task.vace is vace_task


def test_the_typed_input_has_the_inputs_of_the_model_and_no_others() -> None:
    assert set(get_type_hints(VaceInput)) == set(FIELDS)


def test_an_editor_shows_each_parameter_of_the_operator() -> None:
    import ast
    from pathlib import Path

    import airflow_vace.decorators as room

    tree = ast.parse(Path(room.__file__).read_text())
    (_, told, _) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "vace_task"]
    given = {
        a.arg: ast.unparse(d) for a, d in zip(told.args.kwonlyargs, told.args.kw_defaults, strict=True) if d
    }
    operators = inspect.signature(VacePredictionOperator.__init__).parameters
    wanted = {n: p.default for n, p in operators.items() if n not in ("self", "input", "kwargs")}
    assert given.keys() - {"multiple_outputs"} == wanted.keys()
    for name, default in wanted.items():
        assert given[name] in (repr(default), repr(default).replace("'", '"'), "...")


@pytest.mark.parametrize(
    ("returned", "prompt"),
    [("a fox", "a fox"), ({"prompt": "a fox", "seed": 7}, "a fox"), ('{"prompt": 1}', '{"prompt": 1}')],
)
def test_a_text_is_a_prompt_and_a_dict_the_inputs(
    fast_emulator: Emulator, returned: Any, prompt: str
) -> None:
    payload = Run(made_of(returning(returned)), Store()).result()
    (run,) = fast_emulator.world.runs.values()
    assert run.input["prompt"] == prompt
    assert payload["id"] == run.id


@pytest.mark.parametrize("returned", [None, "", "  ", 5, [{"prompt": "a"}], {}, b"a fox"], ids=repr)
def test_anything_else_is_a_clear_error_before_any_request(fast_emulator: Emulator, returned: Any) -> None:
    with pytest.raises(AirflowFailException, match="Nothing was sent") as caught:
        Run(made_of(returning(returned)), Store()).result()
    assert isinstance(caught.value.__cause__, VaceInputError)
    assert "'clip'" in str(caught.value)
    assert "return a dict" in str(caught.value)
    assert not fast_emulator.requests


def test_a_wrong_input_names_its_field(fast_emulator: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="did you mean 'prompt'"):
        Run(made_of(returning({"promt": "a fox"})), Store()).result()
    assert not fast_emulator.requests


def test_coroutines_and_generators_are_refused_at_import() -> None:
    async def later() -> str:
        return "a fox"

    def many() -> Any:
        yield "a fox"

    for function in (later, many):
        with pytest.raises(TypeError, match="plain function"):
            made_of(function)()


def test_a_return_value_is_no_template(fast_emulator: Emulator) -> None:
    prompt = "{{ conn.vace_default.password }} and {{ 7 * 7 }}"
    Run(made_of(returning(prompt)), Store()).result()
    (run,) = fast_emulator.world.runs.values()
    assert run.input["prompt"] == prompt


def test_the_function_gets_arguments_and_context(fast_emulator: Emulator) -> None:
    def clip(name: str, *, ti: Any = None) -> VaceInput:
        return {"prompt": f"{name} for {ti.task_id}"}

    Run(made_of(clip, "a shoe"), Store()).result()
    (run,) = fast_emulator.world.runs.values()
    assert run.input["prompt"] == "a shoe for t"


def test_the_function_of_a_deferred_task_runs_once_and_the_manifest_has_its_input(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    calls: list[str] = []

    def clip() -> VaceInput:
        calls.append("called")
        return {"prompt": "a fox", "src_ref_images": ["https://example.com/a.png?X-Amz-Signature=SIGNED"]}

    run = Run(made_of(clip, wait_for_completion=True, deferrable=True, save_to=f"{tmp_path}/"), Store())
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    payload = run.result()
    assert run.deferred
    assert calls == ["called"]
    assert payload["files"]
    (manifest,) = tmp_path.rglob("*.mp4.json")
    assert '"prompt": "a fox"' in manifest.read_text()
    assert fast_emulator.bill["charged"] == 1
    # What Airflow renders for the page of the task, after the last leg too.
    assert run.legs[-1].input["prompt"] == "a fox"  # type: ignore[attr-defined]
    assert "SIGNED" not in str(run.ti.xcoms[VIEW_KEY])


def test_a_payload_is_one_xcom_though_it_is_a_dict() -> None:
    def clip() -> dict[str, Any]:
        return {"prompt": "a fox"}

    assert made_of(clip)().multiple_outputs is False


def unsteady() -> tuple[Callable[[], VaceInput], list[str]]:
    """Return a function that never returns the same, and what it has returned."""
    calls: list[str] = []

    def clip() -> VaceInput:
        calls.append(f"fox number {len(calls)}")
        return {"prompt": calls[-1]}

    return clip, calls


def test_a_retry_goes_on_with_the_paid_prediction_and_warns_about_changed_inputs(
    fast_emulator: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip, calls = unsteady()
    run = Run(made_of(clip, wait_for_completion=True, save_to=f"{tmp_path}/"), Store())
    fast_emulator.faults.add(method="GET", path="*/_delivery/*", status=500, times=None)
    with pytest.raises(Exception, match="500"):
        run.result()
    fast_emulator.faults.clear()
    capfd.readouterr()
    payload = run.retried().result()
    assert len(calls) == 2
    assert fast_emulator.bill["charged"] == 1
    assert payload["files"]
    assert "another input than the one before" in capfd.readouterr().out
    (manifest,) = tmp_path.rglob("*.mp4.json")
    assert "fox number 1" not in manifest.read_text()  # it was made from another


def test_a_steady_function_is_not_warned_of(
    fast_emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(made_of(returning("a fox")), Store())
    run.result()
    capfd.readouterr()
    run.retried().result()
    assert fast_emulator.bill["charged"] == 1
    assert "another input" not in capfd.readouterr().out


def test_a_clear_submits_the_present_return_value(fast_emulator: Emulator) -> None:
    clip, _ = unsteady()
    run = Run(made_of(clip, wait_for_completion=True), Store())
    first = run.result()
    second = run.cleared().result()
    assert first["id"] != second["id"]
    assert [r.input["prompt"] for r in fast_emulator.world.runs.values()] == ["fox number 0", "fox number 1"]


def test_a_function_that_raises_is_retried_as_any_and_nothing_is_sent(fast_emulator: Emulator) -> None:
    def clip() -> str:
        raise ConnectionError("the catalogue is down")

    with pytest.raises(ConnectionError, match="catalogue"):
        Run(made_of(clip), Store()).result()
    assert not fast_emulator.requests


def test_another_version_is_a_wish_and_no_fault_of_the_function(fast_emulator: Emulator) -> None:
    run = Run(made_of(returning("a fox"), version="1" * 64), Store())
    run.result()
    run.make = made_of(returning("a fox"), version="2" * 64)
    run.retried().result()
    assert [r.version for r in fast_emulator.world.runs.values()] == ["1" * 64, "2" * 64]


def test_a_long_prompt_is_whole_in_the_manifest_after_a_deferral(
    fast_emulator: Emulator, tmp_path: Path
) -> None:
    prompt = "a fox " * 600
    make = made_of(
        returning(prompt.strip()), wait_for_completion=True, deferrable=True, save_to=f"{tmp_path}/"
    )
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    run = Run(make, Store())
    run.result()
    assert run.deferred
    (manifest,) = tmp_path.rglob("*.mp4.json")
    assert prompt.strip() in manifest.read_text()


def test_an_unreadable_snapshot_costs_no_video(
    fast_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = made_of(
        returning("a fox"), wait_for_completion=True, deferrable=True, durable=False, save_to=f"{tmp_path}/"
    )
    fast_emulator.faults.add(method="GET", patch={"status": "processing"})
    run = Run(make)
    pulled = run.ti.xcom_pull

    def pull(*, key: str, **more: Any) -> Any:
        if key == VIEW_KEY:
            raise RuntimeError("the API server is away")
        return pulled(key=key, **more)

    monkeypatch.setattr(run.ti, "xcom_pull", pull)
    assert run.result()["files"]
    assert run.deferred
    assert fast_emulator.bill["charged"] == 1


def test_a_timeout_during_the_snapshot_is_not_retried_if_a_retry_pays(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(made_of(returning("a fox"), wait_for_completion=True, durable=False))

    alarms = [AirflowTaskTimeout("execution_timeout")]  # it rings once

    def push(*_: Any) -> None:
        if alarms:
            raise alarms.pop()

    monkeypatch.setattr(run.ti, "xcom_push", push)
    with pytest.raises(AirflowFailException, match="execution_timeout"):
        run.result()
    assert fast_emulator.bill["charged"] == 1


def test_signatures_in_arguments_are_masked_before_airflow_keeps_them() -> None:
    from airflow.sdk.log import redact  # type: ignore[attr-defined]

    def clip(urls: list[str], *, more: dict[str, str]) -> VaceInput:
        return {"prompt": f"{urls} {more}"}

    signed = "https://b.example/a.png?X-Amz-Signature=deadbeefdeadbeef"
    with DAG("d", schedule=None):
        made: Any = vace_task(clip)([signed], more={"a": signed.replace("dead", "feed")})
    made.operator.render_template_fields({})
    shown = str(redact([made.operator.op_args, made.operator.op_kwargs]))
    assert "deadbeef" not in shown
    assert "feedbeef" not in shown
