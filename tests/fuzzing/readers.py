"""The readers, and what each promises: no error but ours, nothing that can't be kept, nothing endless."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_vace.core.requests import BACKENDS, Api, Response, read_known, read_reference
from airflow_vace.core.responses import read_list, read_prediction, read_probe, read_upload
from airflow_vace.core.wait import PollAgain, Wait
from airflow_vace.exceptions import VaceAPIError, VaceError, VaceInputError, excerpt
from airflow_vace.prediction import Prediction, Progress
from airflow_vace.storage.media_types import check_whole, dimensions_of, reads, type_of
from airflow_vace.submission.ledger import Record
from fuzzing.material import Material

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "the-key-of-this-test"
# What a payload may take in a database row and in an event.
LARGEST_PAYLOAD = 200_000
LONGEST_MESSAGE = 10_000
NOW = 1_800_000_000.0


def answers(data: bytes) -> None:
    """Answers of every back-end to every request, with any status and headers."""
    material = Material(data)
    api = Api.at("https://gateway.example", KEY, backend=material.one_of(sorted(BACKENDS)), lists=True)
    read = material.one_of((_created, _looked, _looked, _listed, _uploaded, _probed))
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
        told(error)


def _created(api: Api, response: Response) -> None:
    kept(read_prediction(api, api.create({"prompt": "a fox"}), response))


def _looked(api: Api, response: Response) -> None:
    kept(read_prediction(api, api.get("abc123"), response))


def _listed(api: Api, response: Response) -> None:
    page = read_list(api, api.list(), response)
    for prediction in page.predictions:
        kept(prediction)
    assert all(isinstance(item, dict) for item in page.unreadable)
    if page.following is not None:
        assert api.page(page.following).url.startswith("https://gateway.example")


def _uploaded(api: Api, response: Response) -> None:
    assert api.file(read_upload(api, api.get("abc123"), response)).method == "GET"


def _probed(api: Api, response: Response) -> None:
    read_probe(api, api.get("abc123"), response)


def kept(prediction: Prediction) -> None:
    """A prediction as told by a server can be kept: by JSON, by PostgreSQL, in a row of some size."""
    payload = prediction.payload()
    storable(payload)
    assert "files" not in payload, "a server has saved nothing of ours"
    again = Prediction.from_json(json.loads(json.dumps(payload)))
    assert again.payload() == payload
    assert isinstance(prediction.has_output, bool)
    assert isinstance(prediction.has_expired, bool)
    assert isinstance(prediction.worth_another_run, bool)
    assert prediction.bill
    for url in prediction.output_urls:
        assert isinstance(url, str)
    checked(prediction.progress)


def storable(value: Any) -> None:
    """What PostgreSQL takes as JSON: no NUL, no half of a character, no infinite number; and little of it."""
    text = json.dumps(value, allow_nan=False)
    assert "\\u0000" not in text, "PostgreSQL refuses NUL"
    json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    assert len(text) < LARGEST_PAYLOAD


def told(error: VaceError, *, has_key: bool = False) -> None:
    """An error can be shown: it is not endless, has no key and no signature, and can be kept."""
    text = str(error)
    assert has_key or KEY not in text
    assert "X-Amz-Signature=a" not in text
    assert len(text) < LONGEST_MESSAGE
    text.encode()
    assert text
    if isinstance(error, VaceAPIError) and error.retry_after is not None:
        assert error.retry_after >= 0
        assert math.isfinite(error.retry_after)


def checked(progress: Progress | None) -> None:
    if progress is None:
        return
    assert 0 <= progress.percent <= 100
    assert progress.step >= 0
    assert progress.steps >= 0
    assert progress.eta is None or math.isfinite(progress.eta)
    assert progress.seconds_per_step is None or 0 < progress.seconds_per_step < math.inf


def logs(data: bytes) -> None:
    """Logs: bars of any kind, cut anywhere."""
    material = Material(data)
    if material.below(2):
        text = "".join(material.text() for _ in range(20))
    else:
        text = material.rest().decode("utf-8", errors="replace")
    checked(Progress.from_logs(text, material.one_of((None, 50, 0, -1))))


def references(data: bytes) -> None:
    """What a DAG calls a prediction: a value from XCom, a text, anything."""
    material = Material(data)
    value = material.value() if material.below(4) else material.rest().decode(errors="replace")
    for read in (read_reference, read_known):
        try:
            read(value)
        except VaceError as error:
            told(error, has_key=True)
    try:
        api = Api.at("https://gateway.example", KEY)
        request = api.get(value)
        assert request.url.startswith("https://gateway.example/")
        assert request.url.isprintable()
        assert " " not in request.url
    except VaceInputError as error:
        told(error, has_key=True)


def waits(data: bytes) -> None:
    """A wait that is told one thing after another: it goes on within bounds, or ends with an end."""
    material = Material(data)
    wait = Wait(prediction=Prediction.from_json({"id": "abc123", "status": "starting"}), deadline=NOW + 3600)
    now = NOW
    for _ in range(1 + material.below(12)):
        now += material.one_of((0.1, 1, 10, 1000, 0))
        said = material.object() | {
            "id": "abc123",
            "status": material.one_of(("starting", "processing", "?")),
        }
        if material.below(6) == 0:
            said["status"] = material.text() or "x"
        try:
            decision = wait.answered(Prediction.from_json(said), now)
        except VaceError as error:
            told(error)
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
        told(error)
        return
    record.as_json()
    datetime.fromisoformat(record.listed_from)
    assert record.is_of(Prediction.from_json({"id": "other", "status": "starting", "input": {}})) is not True


def connections(data: bytes) -> None:
    """A connection as people fill it in: a client comes of it, or an error that names the field."""
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
        told(error, has_key=error.field not in (None, "", "extra", "password", "proxies"))
        return
    assert 0 < settings.timeout < 86400
    for url in ("https://gateway.example/x", settings.api.base_url):
        settings.proxy_for(url)
    request = settings.api.get("abc123")
    assert request.url.startswith(("http://", "https://"))
    for value in request.headers.values():
        value.encode("latin-1")


def films(data: bytes) -> None:
    """Files that are said to be videos or pictures."""
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
            check_whole(io.BytesIO(content), size, "video/mp4")
        except VaceError as error:
            told(error)
        found = dimensions_of(reads(io.BytesIO(content)), size)
        assert found is None or min(found) >= 0
    type_of(content)


def cards(data: bytes) -> None:
    """What other tasks have left in XComs, for the tab: an answer that is JSON comes of it."""
    from dataclasses import asdict

    from airflow_vace.ui.cards import Task, cards_of, read_value
    from airflow_vace.ui.files import is_below, range_of

    material = Material(data)
    values = [material.value(), material.object()]
    if material.below(2):
        values[0] = json.dumps(values[0])
    elif material.below(2):
        values[0] = material.rest().decode(errors="replace")
    task = Task(
        task_id="t", map_index=-1, state="running", result=read_value(values[0]), view=read_value(values[1])
    )
    made = cards_of([task], lambda *_: None, datetime.fromtimestamp(NOW, UTC))
    text = json.dumps([asdict(card) for card in made], allow_nan=False, ensure_ascii=False)
    text.encode()
    assert len(text) < 3 * LARGEST_PAYLOAD
    is_below(["/films/", "s3://c@clips/a"], values[0])
    try:
        found = range_of(material.text(), 1000)
        assert found is None or 0 <= found[0] < found[1] <= 1000
    except ValueError:
        pass


def excerpts(data: bytes) -> None:
    """What people are shown of a text has no signature, and an end."""
    text = data.decode(errors="replace")
    assert len(excerpt(text, 100)) <= 100
    assert "Signature=abc" not in excerpt(f"https://x.example/a?X-Amz-Signature=abc {text}")


READERS: dict[str, Callable[[bytes], None]] = {
    read.__name__: read
    for read in (answers, logs, references, waits, records, connections, films, cards, excerpts)
}
