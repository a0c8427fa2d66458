"""XComs in an object store: cards are whole, or say why not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task, task_group
from airflow.utils.session import create_session

from airflow_vace.operators import VacePredictionOperator
from airflow_vace.ui import task_instances, xcoms
from airflow_vace.ui.cards import cards_of
from support.runs import run
from support.site import DAG_ID, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_vace.emulator import Emulator

NOW = datetime(2026, 11, 28, tzinfo=UTC)
PATH = "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH"


@pytest.fixture
def stored(
    site: Site, result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Move the result of a clip to a store, as Airflow's backend does on a worker."""
    from airflow.providers.common.io.xcom import backend

    monkeypatch.setenv(PATH, f"file://{tmp_path}/xcoms")
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD", "0")
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_COMPRESSION", "gzip")
    caches = (backend._get_base_path, backend._get_threshold, backend._get_compression)
    for cache in caches:
        cache.cache_clear()
    place: dict[str, Any] = {"dag_id": DAG_ID, "run_id": site.run_id, "task_id": "clip"}
    address = backend.XComObjectStorageBackend.serialize_value(result, key="return_value", **place)
    assert isinstance(address, str)
    assert address.startswith(f"file://{tmp_path}/xcoms/")
    assert address.endswith(".gz")
    site.put(address, map_index=result["map_index"])
    # Without the view a card has nothing but the result.
    site.put({}, map_index=result["map_index"], key="vace_view")
    yield {**result, "address": address}
    for cache in caches:
        cache.cache_clear()


def card_of(site: Site, index: int) -> dict[str, Any]:
    (card,) = site.cards(f"?task_id=clip&map_index={index}")
    return card


def test_a_card_is_whole_where_xcoms_are_in_a_store(site: Site, stored: dict[str, Any]) -> None:
    card = card_of(site, stored["map_index"])
    assert (card["id"], card["status"], card["note"]) == (stored["id"], "succeeded", None)
    (video,) = card["videos"]
    answer = site.get(video["src"].removeprefix("/vace"))
    assert (answer.status_code, len(answer.content)) == (200, stored["files"][0]["size"])
    progress = site.get(f"{site.run}/progress/{card['instance']}")
    assert progress.status_code in (200, 404)


def test_a_card_says_why_a_stored_value_is_missing(
    site: Site, stored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = stored["map_index"]
    monkeypatch.delenv(PATH)
    assert "[common.io] xcom_objectstorage_path" in card_of(site, index)["note"]
    monkeypatch.setenv(PATH, f"file://{tmp_path}/others")
    assert "outside of [common.io] xcom_objectstorage_path" in card_of(site, index)["note"]
    monkeypatch.setenv(PATH, f"file://{tmp_path}/xcoms")
    for odd in ("/nothing.json", "/../secret.json", "/./x", ""):
        site.put(f"file://{tmp_path}/xcoms{odd}", map_index=index)
        card = card_of(site, index)
        assert card["id"] is None
        assert "XCom store can't be read" in card["note"] or "outside of" in card["note"]
    site.put("s3://elsewhere/x.json", map_index=index)
    assert "outside of" in card_of(site, index)["note"]


def test_a_value_of_a_store_is_read_once_for_all_browsers(
    site: Site, stored: dict[str, Any], tmp_path: Path
) -> None:
    assert card_of(site, stored["map_index"])["id"] == stored["id"]
    for file in (tmp_path / "xcoms").rglob("*.gz"):
        file.unlink()
    assert card_of(site, stored["map_index"])["id"] == stored["id"]


def test_a_large_or_broken_value_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATH, f"file://{tmp_path}/")
    (tmp_path / "large.json").write_text(json.dumps("x" * 2**21))
    (tmp_path / "broken.json").write_text("{")
    keys = [(f"file://{tmp_path}/{name}.json", NOW) for name in ("large", "broken")]
    found = xcoms.StoredValues().read(keys)
    reasons = [found[key].reason for key in keys]
    assert "larger than" in reasons[0]
    assert "JSONDecodeError" in reasons[1]


def test_a_run_with_many_stored_values_is_read_in_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATH, f"file://{tmp_path}/")
    keys = [(f"file://{tmp_path}/{number}.json", NOW) for number in range(250)]
    for number in range(250):
        (tmp_path / f"{number}.json").write_text(json.dumps({"id": f"p{number}"}))
    cache = xcoms.StoredValues()
    found = [cache.read(keys).values() for _ in range(2)]
    counts = [sum(not isinstance(value, xcoms.Unread) for value in values) for values in found]
    assert counts == [200, 250]


def test_text_that_is_no_address_is_a_plain_value() -> None:
    for value in ("a fox", "see https://example.com for it", "x://a\nb", None, 5, {"id": "p1"}):
        assert xcoms.address_of(value) is None


def test_each_pass_of_a_mapped_clip_in_a_loop_has_a_card(fast_emulator: Emulator, airflow_db: str) -> None:
    assert airflow_db

    @task
    def prompts() -> list[dict[str, str]]:
        return [{"prompt": "a fox"}, {"prompt": "a bear"}]

    @task_group
    def rounds() -> None:
        clip = VacePredictionOperator.partial(task_id="clip", wait_for_completion=True)
        clip.expand(input=prompts())

    if not hasattr(rounds, "loop"):
        pytest.skip("Airflow 3.4 brings loops")
    with DAG("looped", schedule=None) as dag:
        rounds.loop(max_iterations=3)
    done = run(dag)
    with create_session() as session:
        cards = cards_of(task_instances.tasks_of(session, "looped", done.run_id), lambda *_: None)
    assert [(card.map_index, card.loop_pass) for card in cards] == [(i, n) for i in (0, 1) for n in (1, 2, 3)]
    assert len({card.id for card in cards}) == fast_emulator.bill["charged"] == 6
    assert len({card.instance for card in cards}) == 6
    first, second, third = [card.created_at or "" for card in cards[:3]]
    assert first < second < third
