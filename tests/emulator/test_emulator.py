"""The emulator over HTTP: predictions in time, three dialects, refusals, videos, files."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import av
import pytest
import requests

from airflow_vace.emulator import Emulator
from airflow_vace.emulator.checks import invalid_fields
from airflow_vace.emulator.models import FIRST_VERSION
from airflow_vace.emulator.world import World, iso
from airflow_vace.inputs import FIELDS, SPEED_MODES
from airflow_vace.progress import Progress
from support.emulated import FOX, GATEWAY, ended, get, post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(time_scale=0.0002) as emulator:
        yield emulator


def test_the_fixture_gives_a_running_emulator(vace_emulator: Emulator) -> None:
    assert post(vace_emulator).status_code == 200
    assert vace_emulator.bill["charged"] == 1
    assert json.loads(vace_emulator.connection)["host"] == vace_emulator.url


def test_the_pytest_plugin_imports_nothing_else() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import airflow_vace.emulator.fixture;"
        "print(sorted(m.split('.')[0] for m in set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['airflow_vace', 'airflow_vace', 'airflow_vace']"


def test_an_unknown_name_in_the_package_is_an_attribute_error() -> None:
    import airflow_vace.emulator as package

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018 - the access fails


def test_a_prediction_boots_runs_with_growing_logs_and_ends() -> None:
    world = World(seed=0, time_scale=1.0, retention=3600)
    run = world.create(FOX, model="prunaai/vace-14b", version=None, now=1000.0)
    assert run.status_at(1000.0) == "starting"
    assert 1020 <= run.timeline.started <= 1060
    middle = (run.timeline.started + run.ended) / 2
    assert run.status_at(middle) == "processing"
    seen = [
        Progress.from_logs(
            run.timeline.logs_at(run.timeline.started + share * (run.ended - run.timeline.started)), 50
        )
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    assert [p.percent for p in seen if p] == sorted(p.percent for p in seen if p)
    assert run.timeline.logs_at(1000.0) == ""
    assert "\r" not in run.timeline.logs_at(run.ended)
    assert run.status_at(run.ended) == "succeeded"
    assert run.finished_at(middle) is None
    warm = world.create(FOX, model="prunaai/vace-14b", version=None, now=2000.0)
    assert warm.timeline.started - 2000.0 <= 2.0


def test_duration_depends_on_frames_steps_size_and_speed() -> None:
    def seconds(scale: float = 1.0, **values: Any) -> float:
        world = World(seed=0, time_scale=scale, retention=1)
        run = world.create({"prompt": "x", **values}, model="m", version=None, now=0.0)
        return run.ended - run.timeline.started

    plain = seconds()
    assert seconds(frame_num=161) > plain
    assert seconds(sample_steps=25) < plain
    assert seconds(size="1280*720") > plain
    lightly, juiced, extra = (seconds(speed_mode=mode) for mode in SPEED_MODES.values())
    assert lightly == plain
    assert lightly > juiced > extra
    assert seconds(0.5) == pytest.approx(plain / 2)


def test_the_same_seed_gives_the_same_run() -> None:
    def ids(seed: int) -> list[str]:
        world = World(seed=seed, time_scale=1.0, retention=1)
        runs = [world.create(FOX, model="m", version=None, now=0.0) for _ in range(3)]
        return [f"{run.id} {run.ended}" for run in runs]

    assert ids(1) == ids(1) != ids(2)


def test_a_deadline_aborts_before_the_start_and_cancels_after_it() -> None:
    world = World(seed=0, time_scale=1.0, retention=1)
    aborted = world.create(FOX, model="m", version=None, now=0.0, cancel_after=1.0)
    canceled = world.create(FOX, model="m", version=None, now=0.0, cancel_after=10.0)
    assert (aborted.status_at(0.5), aborted.status_at(1.0)) == ("starting", "aborted")
    assert (canceled.status_at(9.0), canceled.status_at(10.0)) == ("processing", "canceled")
    assert canceled.finished_at(11.0) == 10.0
    assert [p["charged"] for p in world.bill(100.0)["predictions"]] == [False, True]


@pytest.mark.parametrize(("digits", "text"), [(0, "1Z"), (3, "1.500Z"), (9, "1.500000000Z")])
def test_times_have_the_wanted_fractional_digits(digits: int, text: str) -> None:
    assert iso(1.5, digits).endswith(f":0{text}")


def test_a_gateway_names_urls_of_another_origin(emulator: Emulator) -> None:
    body = post(emulator).json()
    assert body["urls"]["get"] == f"https://api.replicate.com/v1/predictions/{body['id']}"
    replicate_face = post(emulator, "/v1/predictions", {"version": FIRST_VERSION, "input": FOX})
    assert replicate_face.status_code == 201
    assert replicate_face.json()["urls"]["get"].startswith(emulator.url)


def test_pruna_has_its_own_bodies_and_headers(emulator: Emulator) -> None:
    headers = {"apikey": emulator.api_key, "Model": "vace"}
    created = requests.post(
        f"{emulator.url}/v1/predictions", json={"input": FOX}, headers=headers, timeout=60
    ).json()
    assert set(created) == {"id", "model", "input", "get_url"}
    body: dict[str, Any] = {}
    while body.get("status") != "succeeded":
        body = requests.get(created["get_url"], headers=headers, timeout=60).json()
        assert "id" not in body
    assert body["generation_url"].startswith("/v1/delivery/")
    url = emulator.url + body["generation_url"]
    assert requests.get(url, timeout=60).status_code == 401
    assert requests.get(url, headers=headers, timeout=60).headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Authorization": ""}, GATEWAY, 401),
        ({"Authorization": "Bearer wrong"}, GATEWAY, 401),
        ({"Authorization": "Token {key}"}, GATEWAY, 200),
        ({"Authorization": "Bearer wrong"}, "/v1/predictions", 401),
        ({"apikey": "wrong"}, "/v1/predictions", 401),
    ],
)
def test_the_key_is_checked(emulator: Emulator, headers: dict[str, str], path: str, status: int) -> None:
    given = {name: value.format(key=emulator.api_key) for name, value in headers.items()}
    assert post(emulator, path, **given).status_code == status


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "input.prompt"),
        ({"prompt": ""}, "input.prompt"),
        ({"prompt": "x", "frame_num": "81"}, "input.frame_num"),
        ({"prompt": "x", "frame_num": True}, "input.frame_num"),
        ({"prompt": "x", "size": "1280x720"}, "input.size"),
        ({"prompt": "x", "sample_steps": 0}, "input.sample_steps"),
        ({"prompt": "x", "sample_guide_scale": -1}, "input.sample_guide_scale"),
        ({"prompt": "x", "src_ref_images": "https://a/b"}, "input.src_ref_images"),
        ({"prompt": "x", "promt": "x"}, "input.promt"),
        ({"prompt": "x", "src_ref_images": [1]}, "input.src_ref_images"),
        ({"prompt": "x", "src_video": "not a url"}, "input.src_video"),
        ({"prompt": "x", "frame_num": 10**9}, "input.frame_num"),
        ([], "input"),
    ],
)
def test_inputs_are_checked_as_by_the_model(emulator: Emulator, values: Any, field: str) -> None:
    answer = post(emulator, "/v1/predictions", {"version": FIRST_VERSION, "input": values})
    assert answer.status_code == 422
    assert field in [problem["field"] for problem in answer.json()["invalid_fields"]]
    assert emulator.bill["charged"] == 0


def test_all_documented_inputs_with_their_defaults_are_accepted() -> None:
    values = {name: f.default for name, f in FIELDS.items() if f.default is not None} | {"prompt": "x"}
    assert invalid_fields(values) == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (GATEWAY, "text", 400),
        ("/replicate/v1/models/some/body/predictions", None, 503),
        ("/v1/models/some/body/predictions", None, 404),
        ("/v1/predictions", None, 422),
        ("/replicate/v1/predictions/none/cancel", None, 404),
        ("/replicate/v1/nothing", None, 404),
    ],
)
def test_unknown_paths_models_and_ids_are_refused(
    emulator: Emulator, path: str, body: Any, status: int
) -> None:
    assert post(emulator, path, body).status_code == status
    assert get(emulator, "/replicate/v1/predictions/none").status_code == 404


def test_a_body_without_json_is_refused(emulator: Emulator) -> None:
    key = {"Authorization": f"Bearer {emulator.api_key}"}
    answer = requests.post(emulator.url + GATEWAY, data=b"{", headers=key, timeout=60)
    assert answer.status_code == 400


def test_prefer_wait_responds_at_the_end(emulator: Emulator) -> None:
    assert post(emulator, Prefer="wait").json()["status"] == "succeeded"
    with Emulator(time_scale=100.0) as slow, ThreadPoolExecutor() as pool:
        answer = pool.submit(post, slow, Prefer="wait=50")
        slow.wait_for(lambda: bool(slow.world.runs))
        (identifier,) = slow.world.runs
        post(slow, f"/replicate/v1/predictions/{identifier}/cancel")
        assert answer.result(timeout=20).json()["status"] == "canceled"


def test_a_list_is_bounded_by_times_in_any_format(emulator: Emulator) -> None:
    runs = [
        emulator.world.create(FOX, model="prunaai/vace-14b", version=None, now=1_700_000_000.5 + n)
        for n in range(3)
    ]

    def listed(**query: str) -> list[str]:
        path = f"/v1/predictions?{urlencode(query)}"
        return [body["id"] for body in get(emulator, path).json()["results"]]

    assert listed(created_after="2023-11-14T22:13:21Z") == [runs[2].id, runs[1].id]
    # The first moment is included, the last is not.
    assert listed(created_after="2023-11-14T22:13:21.5Z") == [runs[2].id, runs[1].id]
    assert listed(created_before="2023-11-14T22:13:21.5Z") == [runs[0].id]
    assert listed(created_after="2023-11-15T08:13:21+10:00") == [runs[2].id, runs[1].id]
    assert listed(created_before="2023-11-14T22:13:21Z") == [runs[0].id]
    assert listed(source="web") == []
    rows = get(emulator, "/v1/predictions").json()["results"]
    assert {row["source"] for row in rows} == {"api"}
    for query in ("cursor=x", "created_after=soon", "source=api"):
        assert get(emulator, f"/v1/predictions?{query}").status_code == 422


def test_an_aborted_prediction_is_not_charged(emulator: Emulator) -> None:
    emulator.faults.add("aborted")
    assert ended(emulator, post(emulator).json()["id"])["status"] == "aborted"
    assert emulator.bill["charged"] == 0


def test_the_control_plane_returns_bill_and_requests(emulator: Emulator) -> None:
    body = post(emulator).json()
    bill = requests.get(f"{emulator.url}/_emulator/bill", timeout=60).json()
    assert bill["charged"] == 1
    assert bill["predictions"][0]["id"] == body["id"]
    assert set(bill["predictions"][0]) == {"id", "status", "charged", "created_at"}
    (seen,) = requests.get(f"{emulator.url}/_emulator/requests", timeout=60).json()
    assert (seen["method"], seen["path"], seen["auth"]) == ("POST", GATEWAY, ["authorization"])
    assert emulator.api_key not in json.dumps(seen)


def test_waiting_for_a_false_condition_times_out(emulator: Emulator) -> None:
    with pytest.raises(TimeoutError):
        emulator.wait_for(lambda: False, timeout=0.05)


@pytest.mark.parametrize(("size", "frames"), [("832*480", 81), ("480*832", 5), ("1280*720", 5)])
def test_a_video_is_h264_of_the_wanted_size_and_length(
    emulator: Emulator, size: str, frames: int, tmp_path: Path
) -> None:
    created = post(emulator, body={"input": {**FOX, "size": size, "frame_num": frames}}).json()
    answer = get(emulator, ended(emulator, created["id"])["output"])
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    path = tmp_path / "a.mp4"
    path.write_bytes(answer.content)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == tuple(map(int, size.split("*")))
        assert stream.average_rate == 16
        assert len(list(container.decode(stream))) == frames


def test_videos_differ_by_seed_and_prompt_and_come_in_ranges(emulator: Emulator) -> None:
    films = []
    for values in (FOX, {**FOX, "seed": 8}, {**FOX, "prompt": "a cat"}, FOX):
        created = post(emulator, body={"input": {**values, "frame_num": 5}}).json()
        output = ended(emulator, created["id"])["output"]
        films.append(get(emulator, output).content)
    assert len({*films}) == 3
    assert films[0] == films[3]
    part = get(emulator, output, Range="bytes=4-7")
    assert (part.status_code, part.content) == (206, b"ftyp")
    whole = get(emulator, output)
    assert get(emulator, output, **{"If-None-Match": whole.headers["ETag"]}).status_code == 304


def test_after_its_retention_a_prediction_has_no_files(emulator: Emulator) -> None:
    created = post(emulator).json()
    output = ended(emulator, created["id"])["output"]
    assert get(emulator, output).status_code == 200
    emulator.world.retention = 0.0
    body = get(emulator, f"/v1/predictions/{created['id']}").json()
    assert (body["status"], body["output"], body["data_removed"]) == ("succeeded", None, True)
    assert (body["logs"], body["input"]) == ("", {})
    assert get(emulator, output).status_code == 404


def test_files_live_as_long_as_the_retention_says() -> None:
    world = World(seed=0, time_scale=1.0, retention=3600)
    run = world.create(FOX, model="m", version=None, now=0.0)
    assert not world.is_gone(run, run.ended - 1)
    assert not world.is_gone(run, run.ended + 3599)
    assert world.is_gone(run, run.ended + 3600)


@pytest.mark.parametrize("path", [GATEWAY, "/v1/predictions"])
@pytest.mark.parametrize("version", ["v1", "prunaai/vace-14b:v1", FIRST_VERSION[:8]])
def test_a_version_of_another_form_is_refused_with_the_right_form(
    emulator: Emulator, path: str, version: object
) -> None:
    answer = post(emulator, path, {"version": version, "input": FOX})
    assert answer.status_code == 422
    assert "is not the id of a version, which has 64 hex digits, such as 5129923" in answer.text
    assert emulator.bill["charged"] == 0


def test_a_gateway_and_pruna_accept_versions_in_the_right_form(emulator: Emulator) -> None:
    for version in (None, "", FIRST_VERSION, "ab" * 32, f"prunaai/vace-14b:{FIRST_VERSION}"):
        assert post(emulator, body={"version": version, "input": FOX}).status_code == 200
    key = {"apikey": emulator.api_key}
    body = {"version": "v1", "input": FOX}
    answer = requests.post(f"{emulator.url}/v1/predictions", json=body, headers=key, timeout=60)
    assert (answer.status_code, "64 hex digits" in answer.json()["message"]) == (422, True)


def test_an_empty_or_too_large_upload_is_refused(emulator: Emulator) -> None:
    emulator.max_upload_bytes = 3
    key = {"Authorization": f"Bearer {emulator.api_key}"}
    url = f"{emulator.url}/v1/files"
    assert requests.post(url, headers=key, timeout=60).status_code == 400
    assert requests.post(url, headers=key, files={"other": b"x"}, timeout=60).status_code == 400
    assert requests.post(url, headers=key, files={"content": b"film"}, timeout=60).status_code == 413
    assert get(emulator, "/v1/account").json()["type"] == "user"


def test_the_emulator_serves_in_a_given_event_loop() -> None:
    async def serve() -> int:
        emulator = Emulator(host="::1")
        try:
            await emulator.start()
        except OSError:  # a machine without IPv6
            return 200
        answer = await asyncio.to_thread(requests.get, f"{emulator.url}/_emulator/bill", timeout=60)
        await emulator.stop()
        return answer.status_code

    assert asyncio.run(serve()) == 200
