"""Search for the saved result of an equal order: requests to a store, threads, other kinds of files."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.hooks import VaceHook
from airflow_vace.storage.reuse import find_reusable
from airflow_vace.storage.save import save_output
from airflow_vace.storage.sources import identified
from support.films import DATA_URL
from support.records import order
from support.saving import succeeded, to

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.submission.order import Order

pytestmark = pytest.mark.usefixtures("hurry", "any_connection")


@pytest.fixture(params=["local", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> str:
    del memory
    return str(tmp_path) if request.param == "local" else "memory://b"


def save(of: Order, save_to: str, identifier: str = "abc", output: Any = DATA_URL) -> list[dict[str, Any]]:
    """Save a prediction of an order as a task does."""
    hook = VaceHook()
    destination = replace(to(save_to, None), order_digest=identified(hook, of).digest)
    return save_output(hook, succeeded(identifier, output, model=of.model), destination)


def test_a_saved_file_is_found_by_an_order_without_a_digest(root: str) -> None:
    files = save(order(), f"{root}/fox.mp4")
    found = find_reusable(VaceHook(), to(f"{root}/fox.mp4"), order())
    assert found is not None
    assert (found.id, found.files, found.reused) == ("abc", files, True)
    assert find_reusable(VaceHook(), to(f"{root}/fox.mp4"), order(prompt="an owl")) is None


def test_a_directory_has_no_reusable_file(root: str) -> None:
    save(order(), f"{root}/")
    assert find_reusable(VaceHook(), to(f"{root}/"), order()) is None


def test_threads_search_for_an_item_each(root: str) -> None:
    orders = {f"{root}/{number}.mp4": order(prompt=f"fox {number}") for number in range(24)}
    for number, (save_to, of) in enumerate(orders.items()):
        save(of, save_to, f"p{number}")
    local = threading.local()

    def found(item: tuple[str, Order]) -> str | None:
        if not hasattr(local, "hook"):
            local.hook = VaceHook()
        prediction = find_reusable(local.hook, to(item[0]), item[1])
        return None if prediction is None else prediction.id

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found, orders.items())) == [f"p{number}" for number in range(24)]


def test_a_saved_file_costs_one_small_read_and_a_size(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save(order(), "memory://b/fox.mp4")
    calls: list[str] = []

    def counted(name: str) -> None:
        real = getattr(type(memory), name)

        def call(fs: Any, path: str, *args: Any, **options: Any) -> Any:
            calls.append(f"{name} {path}")
            return real(fs, path, *args, **options)

        monkeypatch.setattr(type(memory), name, call)

    counted("ls")
    counted("info")
    counted("cat_file")
    assert find_reusable(VaceHook(), to("memory://b/fox.mp4"), order())
    assert [call for call in calls if not call.startswith("info /b/fox.mp4.json")] == [
        "cat_file /b/fox.mp4.json",
        "info /b/fox.mp4",
    ]


def test_a_file_of_the_order_is_found_beside_a_file_of_another(root: str) -> None:
    other = order("owner/other", question="?")
    save(order(), f"{root}/fox.mp4")
    (file,) = save(other, f"{root}/fox.mp4", "other", {"answer": "It ran."})
    assert file["uri"].endswith("/fox.json")
    found = find_reusable(VaceHook(), to(f"{root}/fox.mp4"), other)
    assert found is not None
    assert found.files == [file]


def test_a_manifest_from_outside_is_read_with_care(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(order(), f"{tmp_path}/fox.mp4")
    manifest = tmp_path / "fox.mp4.json"
    manifest.write_text(manifest.read_text().replace('"task": {', '"task": "a\\nb", "was": {'))
    found = find_reusable(VaceHook(), to(f"{tmp_path}/fox.mp4"), order())
    assert found is not None
    assert "prediction abc, of dag_id None, run_id None, task_id None" in capfd.readouterr().out
