"""The readers and their promises: only errors of this package, storable values, bounded size."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_vace.core.backends import BACKENDS
from airflow_vace.core.references import read_known, read_reference
from airflow_vace.core.requests import Api, Response
from airflow_vace.core.responses import read_list, read_prediction, read_probe, read_upload
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import VaceAPIError, VaceError, VaceInputError
from airflow_vace.prediction import Prediction
from airflow_vace.progress import Progress
from airflow_vace.redaction import excerpt
from airflow_vace.storage.media_types import check_whole, dimensions_of, reads, type_of
from airflow_vace.submission.record import Record
from fuzzing.material import Material

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "the-key-of-this-test"
# Payloads are stored in database rows and events.
LARGEST_PAYLOAD = 200_000
LONGEST_MESSAGE = 10_000
NOW = 1_800_000_000.0


def answers(data: bytes) -> None:
    """Answers of every back-end to every request, with any status and headers."""
    material = Material(data)
    api = Api.at("https://gateway.example", KEY, backend=material.one_of(sorted(BACKENDS)), lists=True)
    read = material.one_of((_created, _polled, _polled, _listed, _uploaded, _probed))
    status = material.one_of((200, 201, 202, 302, 400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 524))
    headers = {}
    for name in ("Content-Type", "Retry-After", "Date", "ratelimit-reset", "Location"):
        if material.below(3) == 0:
            headers[name] = material.one_of(
                ("5", "1.5", "-1", "1e999", "text/html", "Mon, 23 Nov 2026 10:00:00 GMT")
            )
            if material.below(3) == 0:
                headers[name] = material.text()
    response = Response(status, headers, material.json_bytes())
    try:
        read(api, response)
    except VaceError as error:
        check_message(error)


def _created(api: Api, response: Response) -> None:
    check_kept(read_prediction(api, api.create({"prompt": "a fox"}), response))


def _polled(api: Api, response: Response) -> None:
    check_kept(read_prediction(api, api.get("abc123"), response))


def _listed(api: Api, response: Response) -> None:
    page = read_list(api, api.list(), response)
    for prediction in page.predictions:
        check_kept(prediction)
    assert all(isinstance(item, dict) for item in page.unreadable)
    if page.following is not None:
        assert api.page(page.following).url.startswith("https://gateway.example")


def _uploaded(api: Api, response: Response) -> None:
    assert api.file(read_upload(api, api.get("abc123"), response)).method == "GET"


def _probed(api: Api, response: Response) -> None:
    read_probe(api, api.get("abc123"), response)


def check_kept(prediction: Prediction) -> None:
    """A prediction from a server fits into JSON, PostgreSQL and a row of bounded size."""
    payload = prediction.payload()
    check_storable(payload)
    assert "files" not in payload, "a server cannot list files saved by us"
    again = Prediction.from_json(json.loads(json.dumps(payload)))
    assert again.payload() == payload
    assert isinstance(prediction.has_output, bool)
    assert isinstance(prediction.has_expired, bool)
    assert isinstance(prediction.worth_another_run, bool)
    assert prediction.bill
    for url in prediction.output_urls:
        assert isinstance(url, str)
    check_progress(prediction.progress)


def check_storable(value: Any) -> None:
    """PostgreSQL stores the value: without NUL, lone surrogates and infinite numbers, in bounded size."""
    text = json.dumps(value, allow_nan=False)
    assert "\\u0000" not in text, "PostgreSQL refuses NUL"
    json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    assert len(text) < LARGEST_PAYLOAD


def check_message(error: VaceError, *, has_key: bool = False) -> None:
    """A message is short and storable, without key and signature."""
    text = str(error)
    assert has_key or KEY not in text
    assert "X-Amz-Signature=a" not in text
    assert len(text) < LONGEST_MESSAGE
    text.encode()
    assert text
    if isinstance(error, VaceAPIError) and error.retry_after is not None:
        assert error.retry_after >= 0
        assert math.isfinite(error.retry_after)


def check_progress(progress: Progress | None) -> None:
    if progress is None:
        return
    assert 0 <= progress.percent <= 100
    assert progress.step >= 0
    assert progress.steps >= 0
    assert progress.eta is None or math.isfinite(progress.eta)
    assert progress.seconds_per_step is None or 0 < progress.seconds_per_step < math.inf


def logs(data: bytes) -> None:
    """Logs: bars of any kind, truncated anywhere."""
    material = Material(data)
    if material.below(2):
        text = "".join(material.text() for _ in range(20))
    else:
        text = material.rest().decode("utf-8", errors="replace")
    check_progress(Progress.from_logs(text, material.one_of((None, 50, 0, -1))))


def references(data: bytes) -> None:
    """References in a DAG: a value from XCom, a text, any object."""
    material = Material(data)
    value = material.value() if material.below(4) else material.rest().decode(errors="replace")
    for read in (read_reference, read_known):
        try:
            read(value)
        except VaceError as error:
            check_message(error, has_key=True)
    try:
        api = Api.at("https://gateway.example", KEY)
        request = api.get(value)
        assert request.url.startswith("https://gateway.example/")
        assert request.url.isprintable()
        assert " " not in request.url
    except VaceInputError as error:
        check_message(error, has_key=True)


def waits(data: bytes) -> None:
    """A wait with arbitrary responses: bounded gaps, and an end only with an end of the prediction."""
    material = Material(data)
    wait = Wait(prediction=Prediction.from_json({"id": "abc123", "status": "starting"}), deadline=NOW + 3600)
    now = NOW
    for _ in range(1 + material.below(12)):
        now += material.one_of((0.1, 1, 10, 1000, 0))
        members = material.object() | {
            "id": "abc123",
            "status": material.one_of(("starting", "processing", "?")),
        }
        if material.below(6) == 0:
            members["status"] = material.text() or "x"
        try:
            decision = wait.answered(Prediction.from_json(members), now)
        except VaceError as error:
            check_message(error)
            continue
        if not isinstance(decision, PollAgain):
            return
        assert 0 <= decision.seconds <= 3600
        if wait.news is not None:
            assert len(wait.news) < LONGEST_MESSAGE


def records(data: bytes) -> None:
    """The record in a task's state store, which people may edit; a decision about it."""
    material = Material(data)
    value: Any = material.value()
    if material.below(2) and isinstance(value, dict):
        value = {
            "phase": material.one_of(("intent", "submitted", "settled")),
            "fingerprint": "f",
            "mark": "m",
            "marked": [],
            "conn_id": "vace_default",
            "model": "prunaai/vace-14b",
            "nonce": "n",
            "intended_at": "2026-11-23T10:00:00+00:00",
            "deadline": NOW,
            "prediction": {"id": "abc123", "status": "starting"},
        } | value
    try:
        record = Record.from_json(value)
    except VaceError as error:
        check_message(error)
        return
    record.as_json()
    datetime.fromisoformat(record.listed_from)
    assert record.is_of(Prediction.from_json({"id": "other", "status": "starting", "input": {}})) is not True


def connections(data: bytes) -> None:
    """A connection with arbitrary fields: valid settings, or an error with the field."""
    from airflow.sdk import Connection

    from airflow_vace.client.settings import Settings

    material = Material(data)
    extra = material.value()
    given = Connection(
        conn_id="c",
        conn_type="vace",
        host=material.one_of((None, "", "gateway.example", "https://gateway.example/", material.text())),
        schema=material.one_of((None, "http", "https", material.text())),
        port=material.one_of((None, 0, 443, -1, 65536)),
        password=material.one_of((None, KEY, material.text())),
    )
    try:
        settings = Settings.of(given, extra)
    except VaceInputError as error:
        check_message(error, has_key=error.field not in (None, "", "extra", "password", "proxies"))
        return
    assert 0 < settings.timeout < 86400
    for url in ("https://gateway.example/x", settings.api.base_url):
        settings.proxy_for(url)
    request = settings.api.get("abc123")
    assert request.url.startswith(("http://", "https://"))
    for value in request.headers.values():
        value.encode("latin-1")


def films(data: bytes) -> None:
    """Files with the names of videos or images."""
    material = Material(data)
    heads = (
        b"",
        b"\0\0\0\x18ftypmp42",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\0\0\0\x01moov",
        b"RIFF\0\0\0\0WEBP",
    )
    content = material.one_of(heads) + material.rest()
    for size in (len(content), len(content) + 10, 0):
        try:
            check_whole(io.BytesIO(content), size, material.one_of(("video/mp4", type_of(content))))
        except VaceError as error:
            check_message(error)
        found = dimensions_of(reads(io.BytesIO(content)), size)
        assert found is None or min(found) >= 0
    type_of(content)


def cards(data: bytes) -> None:
    """XComs of other tasks, for the Videos tab: cards that are JSON."""
    from dataclasses import asdict, replace

    from airflow_vace.ui.batches import heads_and_others, page_of
    from airflow_vace.ui.cards import Task, cards_of
    from airflow_vace.ui.files import is_below, range_of
    from airflow_vace.ui.xcoms import read_value

    material = Material(data)
    values = [material.value(), material.object()]
    if material.below(2):
        values[0] = json.dumps(values[0])
    elif material.below(2):
        values[0] = material.rest().decode(errors="replace")
    task = Task(
        instance="t",
        task_id="t",
        map_index=-1,
        state="running",
        result=read_value(values[0]),
        view=read_value(values[1]),
    )
    now = datetime.fromtimestamp(NOW, UTC)
    made = cards_of(heads_and_others([task])[1], lambda *_: None, now)
    text = json.dumps([asdict(card) for card in made], allow_nan=False, ensure_ascii=False)
    text.encode()
    assert len(text) < 3 * LARGEST_PAYLOAD
    head = {"batch": {"items": 3, "page_size": 60, "states": "sfr"}}
    batch = replace(
        task, view=head, page={"items": [read_value(values[1]), read_value(values[0]), {"state": "s"}]}
    )
    items, note = page_of(batch, 0, lambda *_: None, now, lambda *_: None)
    assert (len(items), note) == (3, None)
    json.dumps([asdict(item) for item in items], allow_nan=False, ensure_ascii=False).encode()
    is_below(["/films/", "s3://c@clips/a"], values[0])
    try:
        found = range_of(material.text(), 1000)
        assert found is None or 0 <= found[0] < found[1] <= 1000
    except ValueError:
        pass


def excerpts(data: bytes) -> None:
    """An excerpt has no signature and a maximum length."""
    text = data.decode(errors="replace")
    assert len(excerpt(text, 100)) <= 100
    assert "Signature=abc" not in excerpt(f"https://x.example/a?X-Amz-Signature=abc {text}")


READERS: dict[str, Callable[[bytes], None]] = {
    read.__name__: read
    for read in (answers, logs, references, waits, records, connections, films, cards, excerpts)
}
