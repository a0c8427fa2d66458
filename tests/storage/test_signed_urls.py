"""Secrets in URLs appear in no payload, link, view or rendered field; their videos are saved nevertheless."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG
from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the public module hides the name

from airflow_vace.core.references import read_known
from airflow_vace.decorators import vace_task
from airflow_vace.hooks import VaceHook
from airflow_vace.links import PredictionOutputLink, PredictionPageLink
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.prediction import Prediction
from airflow_vace.redaction import unsigned, without_secrets
from airflow_vace.sensors import VacePredictionSensor
from airflow_vace.storage.masking import mask_signatures
from airflow_vace.triggers import VacePredictionTrigger
from support.attempts import MODES, billed, waiting
from support.runs import run, states
from support.supervisor import DONE, Supervisor, created, events_of, needs_airflow_3_3, ti_of
from support.tasks import NOBODY, Run

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator

pytestmark = pytest.mark.usefixtures("hurry")

SIGNED = [
    ("https://cdn.example/a.mp4?X-Amz-Signature=SECRETsecret&X-Amz-Expires=3600", "https://cdn.example/a.mp4?…"),
    ("https://cdn.example/a.mp4?hdnts=exp=1~acl=/*~hmac=SECRETsecret", "https://cdn.example/a.mp4?…"),
    ("https://cdn.example/a.mp4#SECRETsecret", "https://cdn.example/a.mp4?…"),
    ("https://scott:SECRETsecret@cdn.example/a.mp4", "https://cdn.example/a.mp4?…"),
    ("https://scott:SECRET/secret@cdn.example/a.mp4", "https://cdn.example/a.mp4?…"),
    ("https://cdn.example/a fox.mp4?token='SECRET secret'", "https://cdn.example/a fox.mp4?…"),
    ("https://proxy.example/https://scott:SECRETsecret@cdn.example/a.mp4", "https://proxy.example/https://cdn.example/a.mp4?…"),
]  # fmt: skip
ADDRESSES = pytest.mark.parametrize(("url", "kept"), SIGNED)


def succeeded(**more: Any) -> Prediction:
    return Prediction.from_json({"id": "p1", "status": "succeeded", **more})


# --- payloads and links ----------------------------------------------------------------------------------


@ADDRESSES
def test_a_payload_keeps_the_place_and_says_that_it_is_shortened(url: str, kept: str) -> None:
    for output, expected in (
        (url, kept),
        ([url, "x"], [kept, "x"]),
        ({"video": {"url": url}}, {"video": {"url": kept}}),
    ):
        fresh = succeeded(output=output, urls={"get": url, "web": url}, metrics={"note": url})
        payload = fresh.payload()
        assert payload["output"] == expected
        assert "secret" not in json.dumps(payload, ensure_ascii=False).lower()
        assert not fresh.is_shortened
        assert Prediction.from_json(payload).is_shortened
        assert Prediction.from_json(payload).payload() == payload


def test_plain_addresses_and_text_stay_as_they_are() -> None:
    for output in (
        "https://replicate.delivery/pbxt/a/out.mp4",
        "text, a=b? #c",
        ["https://h:80/@me/x"],
        {"n": 1},
    ):
        assert succeeded(output=output).payload()["output"] == output
        assert not succeeded(output=output).is_shortened


@ADDRESSES
def test_links_show_only_addresses_that_work_as_they_stand(url: str, kept: str) -> None:
    for address in (url, kept):
        shown = succeeded(output=address, urls={"web": address})
        assert (PredictionOutputLink.of(shown), PredictionPageLink.of(shown)) == ("", "")
    plain = succeeded(output="https://cdn.example/a.mp4", urls={"web": "https://web.example/p1"})
    assert PredictionOutputLink.of(plain) == "https://cdn.example/a.mp4"
    assert PredictionPageLink.of(plain) == "https://web.example/p1"


def test_a_shortened_status_address_is_not_asked_as_it_stands(slow_emulator: Emulator) -> None:
    made = VaceHook().create_prediction({"prompt": "a fox"})
    signed = read_known({**made.payload(), "urls": {"get": f"{made.urls['get']}?sig=SECRETsecret"}})
    assert VaceHook().get_prediction(signed.payload()).id == made.id
    assert "…" not in slow_emulator.requests[-1].path


# --- saved all the same ----------------------------------------------------------------------------


@pytest.fixture
def signed_video(fast_emulator: Emulator) -> str:
    """A video whose prediction has a signed URL."""
    plain = str(VaceHook().wait_for_prediction(VaceHook().create_prediction({"prompt": "x"}), 20).output)
    path = "*/predictions/*"
    runs = {"status": "processing", "output": None, "completed_at": None}
    fast_emulator.faults.add(method="GET", path=path, patch=runs, times=2)  # so that a wait defers
    fast_emulator.faults.add(
        method="GET", path=path, patch={"output": f"{plain}?sig=SECRETsecret"}, times=None
    )
    return plain


@MODES
@pytest.mark.parametrize("save_in", ["worker", "triggerer"])
def test_a_signed_video_is_saved_and_its_signature_is_not(
    signed_video: str, tmp_path: Path, *, deferrable: bool, save_in: str
) -> None:
    if save_in == "triggerer" and not deferrable:
        pytest.skip("a worker saves")
    made = waiting(save_to=f"{tmp_path}/", deferrable=deferrable, save_in=save_in)
    result = made.result()
    assert result["output"] == f"{signed_video}?…"
    assert len(result["files"]) == 1
    assert len(list(tmp_path.rglob("*.mp4"))) == 1
    kept = [
        result,
        made.rows,
        made.ti.xcoms,
        [leg.kwargs for leg in made.deferred],
        made.context["task_state_store"].rows,
    ]
    assert "SECRETsecret" not in repr(kept)
    assert not any("SECRETsecret" in path.read_text() for path in tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("fast_emulator")
def test_a_sensor_on_a_final_payload_saves_a_signed_video(signed_video: str, tmp_path: Path) -> None:
    assert signed_video
    payload = waiting(deferrable=False).result()
    assert payload["output"].endswith("?…")
    make = partial(
        VacePredictionSensor, task_id="t", prediction=payload, deferrable=False, save_to=f"{tmp_path}/"
    )
    assert Run(make).result()["files"]


def test_a_signed_address_that_cannot_be_asked_for_is_a_retry(
    slow_emulator: Emulator, tmp_path: Path
) -> None:
    made = waiting(save_to=f"{tmp_path}/", deferrable=True)

    def end() -> None:
        output = {**DONE, "output": "https://cdn.example/a.mp4?sig=SECRETsecret"}
        slow_emulator.faults.add(method="GET", patch=output)
        slow_emulator.faults.add(method="GET", status=503, times=None)

    with pytest.raises(Exception, match="503") as raised:
        made.result(between=end)
    assert not isinstance(raised.value, AirflowFailException)
    assert billed(slow_emulator) == 1


# --- too large for XCom ----------------------------------------------------------------------------

MANY = [
    f"https://delivery.example/some/long/path/of/a/frame/{n:06d}/out-of-the-model.png" for n in range(1000)
]
LARGE = pytest.mark.parametrize(
    "output", [MANY, {"frames": MANY}, "a" * 70_000], ids=["list", "object", "text"]
)


@MODES
@LARGE
def test_an_output_too_large_for_xcom_is_never_lost_in_silence(
    slow_emulator: Emulator, output: Any, *, deferrable: bool
) -> None:
    made = waiting(deferrable=deferrable)
    patch = {"status": "succeeded", "output": output}
    if deferrable:
        with pytest.raises(AirflowFailException, match=r"too large.*save_to.*within the hour"):
            made.result(between=lambda: slow_emulator.faults.add(method="GET", patch=patch, times=None))
    else:
        slow_emulator.faults.add(method="GET", patch=patch, times=None)
        with pytest.raises(AirflowFailException, match=r"too large.*save_to.*within the hour"):
            made.result()


@needs_airflow_3_3
@LARGE
def test_an_output_too_large_for_xcom_ends_on_a_worker(
    slow_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, output: Any
) -> None:
    supervisor = Supervisor()
    where = "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS"
    monkeypatch.setattr(where, supervisor, raising=False)
    slow_emulator.faults.add(method="GET", patch={"status": "succeeded", "output": output}, times=None)
    event = events_of(VacePredictionTrigger(created(), end_from_trigger=True), ti_of())
    assert event.payload["output"] is None
    assert supervisor.left == {}
    with pytest.raises(AirflowFailException, match="too large"):
        VacePredictionSensor(task_id="t", prediction=event.payload).execute_complete(NOBODY, event.payload)


# --- inputs ----------------------------------------------------------------------------------------

SECRETS = ("SECRETsecret", "SECRET/secret", "SECRET secret")


@pytest.mark.parametrize("url", [url for url, _ in SIGNED])
@pytest.mark.parametrize(
    "wrapped",
    [
        str,
        lambda url: [url],
        lambda url: {"a": [{"b": (url,)}]},
        lambda url: json.dumps({"src_video": url}),
        lambda url: f"see {url} and that",
        lambda url: {url},
    ],
    ids=["plain", "list", "nested", "json", "text", "set"],
)
def test_secrets_in_an_inputs_url_are_masked(url: str, wrapped: Any) -> None:
    if " " in url and not isinstance(wrapped(url), dict | list | set) and wrapped is not str:
        pytest.skip("where an address with a space ends in a text, nobody knows")
    mask_signatures(wrapped(url))
    shown = str([redact(url), redact(url.partition("?")[2]), redact(wrapped(url))])
    assert not any(secret in shown for secret in SECRETS)


def test_each_spelling_of_a_secret_is_masked() -> None:
    mask_signatures("https://c.example/a.mp4?hdnts=exp=17~acl=/*~hmac=ab%2Fcdef&st=0a1b2c&e=a+b+c+d")
    for form in ("ab%2Fcdef", "ab/cdef", "exp=17~acl=/*~hmac=ab/cdef", "0a1b2c", "a+b+c+d", "a b c d"):
        assert form not in redact(f"<{form}>")
    mask_signatures("https://t0ken-of-mine@c.example/a.mp4")
    assert "t0ken-of-mine" not in redact("with t0ken-of-mine")
    mask_signatures("s3://aws_default@bucket/a.mp4")
    assert "aws_default" in redact("s3://aws_default@bucket/a.mp4")


def test_secrets_in_a_files_url_are_masked_before_the_request(
    fast_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    opens = {name: f"{name}-opens-it" for name in ("first", "second", "third")}
    moved = f"/moved?hdnts={opens['second']}"
    fast_emulator.faults.add(path="/a.mp4", status=302, headers={"Location": moved})
    fast_emulator.faults.add(path="/moved", status=200, body="film")
    with caplog.at_level("DEBUG", "urllib3"):
        with VaceHook().open_file(f"{fast_emulator.url}/a.mp4?hdnts=exp=1~hmac={opens['first']}") as download:
            assert b"".join(download.chunks) == b"film"
        VaceHook().client.status_of(f"{fast_emulator.url}/b.mp4?hdnts={opens['third']}")
    for secret in opens.values():
        assert secret in caplog.text
        assert secret not in str(redact(caplog.text))


@pytest.mark.parametrize("url", [url for url, _ in SIGNED])
def test_rendered_fields_of_all_tasks_are_masked(url: str) -> None:
    def clip(urls: list[str], *, more: dict[str, Any]) -> str:
        return f"{urls} {more}"

    with DAG("d", schedule=None):
        made: Any = vace_task(clip)([url], more={"a": [url]})
        tasks = [
            made.operator,
            VacePredictionOperator(task_id="o", input={"prompt": "x", "src_video": url}),
            VacePredictionSensor(task_id="s", prediction={"id": "p1", "output": [url]}),
        ]
    for found in tasks:
        found.render_template_fields({})
        fields = {name: getattr(found, name) for name in found.template_fields}
        assert not any(secret in str(redact(fields)) for secret in SECRETS)


@ADDRESSES
def test_manifest_and_view_keep_the_place_of_an_input(url: str, kept: str) -> None:
    whole = kept if "?" in url or "#" in url else kept.removesuffix("?…")
    assert without_secrets({"a": [url]}, redact) == {"a": [whole]}
    assert unsigned(kept) == kept
    assert without_secrets("s3://aws_default@bucket/a.mp4", redact) == "s3://aws_default@bucket/a.mp4"


def test_a_long_text_is_searched_in_time() -> None:
    for text in ("a" * 1_000_000, "a+" * 500_000, "://" * 100_000, "https://" * 50_000):
        mask_signatures(text)
        unsigned(text)


# --- a whole run -----------------------------------------------------------------------------------


def kept_in(database: str) -> str:
    """Return all rows of Airflow's tables, except the DAG's source text."""
    with sqlite3.connect(database) as base:
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [
            row
            for table in tables
            if table not in ("serialized_dag", "dag_code")
            for row in base.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - names of the database itself
        ]
    return repr(rows)


@pytest.mark.usefixtures("signed_video")
def test_after_a_run_no_signature_is_in_tables_logs_or_manifests(
    fast_emulator: Emulator, airflow_db: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    urls = [url for url, _ in SIGNED[:4]]
    fast_emulator.faults.add(
        method="POST", outcome={"status": "failed", "error": f"E1001: could not fetch {urls[0]}"}
    )

    def clip(url: str, more: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": f"{len(more)} fox", "src_video": url}

    with DAG("audit", schedule=None) as dag:
        decorated: Any = vace_task(wait_for_completion=True, deferrable=True, save_to=f"{tmp_path}/")(clip)
        decorated.partial(more={"all": [urls]}).expand(url=urls)
        made = VacePredictionOperator.partial(task_id="submit").expand_kwargs(
            [{"input": {"prompt": "a fox", "src_video": url}, "label": url} for url in urls]
        )
        VacePredictionSensor.partial(task_id="wait", deferrable=True).expand(prediction=made.output)
    done = run(dag)
    assert sorted(states(done).values()).count("success") == 11
    assert len(list(tmp_path.rglob("*.json"))) >= 3
    manifests = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    out, err = capfd.readouterr()
    for what in (kept_in(airflow_db), manifests, out + err):
        assert "cdn.example/a.mp4" in what or what is not manifests
        assert not [secret for secret in ("SECRETsecret", "SECRET/secret", "scott") if secret in what]
