"""A fixed name for several predictions of one run: no paid file replaces another."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.core.timing import Timing
from airflow_vace.hooks import VaceHook
from airflow_vace.storage.download import OutputDownload
from airflow_vace.storage.find import find_saved
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.save import save_output
from support.films import DATA_URL, MP4, box
from support.saving import TASK, succeeded, to

if TYPE_CHECKING:
    from airflow_vace.storage.destination import Destination

pytestmark = pytest.mark.usefixtures("hurry", "any_connection")


def url_of(name: str) -> str:
    return "data:video/mp4," + "".join(f"%{byte:02x}" for byte in MP4 + box(b"free", name.encode()))


def content_of(uri: str) -> bytes:
    return place_of(uri, "x").read(0, 10_000)


@pytest.fixture(params=["local", "store"])
def fixed(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> str:
    del memory
    return f"{tmp_path}/latest.mp4" if request.param == "local" else "memory://b/latest.mp4"


def saved(save_to: str, name: str, ti: Any = TASK) -> list[dict[str, Any]]:
    return save_output(VaceHook(), succeeded(name, url_of(name)), to(save_to, ti))


@pytest.mark.parametrize("task_id", ["t", "another"])
def test_a_second_prediction_of_a_run_is_saved_beside_the_first(
    fixed: str, task_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (first,) = saved(fixed, "one")
    ti = SimpleNamespace(**{**vars(TASK), "task_id": task_id})
    (second,) = saved(fixed, "two", ti)
    assert second["uri"] == first["uri"].replace("latest.mp4", "latest-two.mp4")
    assert [content_of(file["uri"]) for file in (first, second)] == [
        MP4 + box(b"free", b"one"),
        MP4 + box(b"free", b"two"),
    ]
    logged = capfd.readouterr().out
    assert "holds the file of another prediction of this run" in logged
    assert "Give save_to a directory" in logged
    # A retry finds both.
    assert saved(fixed, "two", ti) == [second]
    assert find_saved(VaceHook(), to(fixed, ti), "two") == [second]
    assert find_saved(VaceHook(), to(fixed), "one") == [first]
    held = replace(succeeded("two", url_of("two")), files=[second])
    assert to(fixed, ti).holds(held, Timing())


def test_an_old_list_of_a_store_hides_no_file_of_another_worker(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries of stores answer from the list of a directory, until the list is invalidated.
    lists: dict[str, list[dict[str, Any]]] = {}
    store, ls, info = type(memory), type(memory).ls, type(memory).info

    def cached_ls(self: Any, path: str, detail: bool = True, **options: Any) -> Any:  # noqa: FBT001, FBT002
        lists[path] = ls(self, path, detail=True, **options)
        return lists[path] if detail else [entry["name"] for entry in lists[path]]

    def cached_info(self: Any, path: str, **options: Any) -> Any:
        if (known := lists.get(path.rpartition("/")[0])) is None:
            return info(self, path, **options)
        found = [entry for entry in known if entry["name"] == path]
        if not found:
            raise FileNotFoundError(path)
        return found[0]

    memory.mkdir("/b")
    monkeypatch.setattr(store, "ls", cached_ls)
    monkeypatch.setattr(store, "info", cached_info)
    monkeypatch.setattr(store, "invalidate_cache", lambda *_: lists.clear())
    kept: list[dict[str, Any]] = []
    fetch = OutputDownload.into

    def late(download: OutputDownload, file: Any) -> Any:
        found = fetch(download, file)
        if download.prediction.id == "two":
            kept.extend(saved("memory://b/latest.mp4", "one"))
            lists["/b"] = []  # the list of this process from before
        return found

    monkeypatch.setattr(OutputDownload, "into", late)
    (second,) = saved("memory://b/latest.mp4", "two")
    assert [content_of(file["uri"]) for file in (*kept, second)] == [
        MP4 + box(b"free", b"one"),
        MP4 + box(b"free", b"two"),
    ]


def test_the_next_run_replaces_the_file(fixed: str) -> None:
    (first,) = saved(fixed, "one")
    (second,) = saved(fixed, "two", SimpleNamespace(**{**vars(TASK), "run_id": "next"}))
    assert second["uri"] == first["uri"]
    assert content_of(second["uri"]).endswith(b"two")


def test_without_a_task_a_file_is_replaced(fixed: str) -> None:
    (first,) = saved(fixed, "one", None)
    (second,) = saved(fixed, "two", None)
    assert second["uri"] == first["uri"]


def test_a_deleted_file_makes_room_for_the_next(tmp_path: Path) -> None:
    saved(f"{tmp_path}/latest.mp4", "one")
    (tmp_path / "latest.mp4").unlink()
    (second,) = saved(f"{tmp_path}/latest.mp4", "two")
    assert second["uri"].endswith("/latest.mp4")


def test_several_outputs_of_two_predictions_do_not_mix(fixed: str) -> None:
    destination: Destination = to(fixed)
    one = save_output(VaceHook(), succeeded("one", [DATA_URL, DATA_URL]), destination)
    two = save_output(VaceHook(), succeeded("two", [DATA_URL, DATA_URL]), destination)
    names = [Path(file["uri"]).name for file in (*one, *two)]
    assert names == ["latest-1.mp4", "latest-2.mp4", "latest-1-two.mp4", "latest-2-two.mp4"]
    assert find_saved(VaceHook(), destination, "two") == two


def test_a_long_name_gives_way_to_the_predictions_id(tmp_path: Path) -> None:
    save_to = f"{tmp_path}/{'a' * 241}.mp4"
    identifier = "p" * 200
    saved(save_to, "one")
    (second,) = saved(save_to, identifier)
    assert Path(second["uri"]).name == f"{identifier}.mp4"
    assert find_saved(VaceHook(), to(save_to), identifier) == [second]


def test_predictions_of_a_run_that_end_at_once_are_all_kept(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(8)]
    start = threading.Barrier(len(names))

    def save(name: str) -> dict[str, Any]:
        start.wait(60)
        return saved(f"{tmp_path}/latest.mp4", name)[0]

    with ThreadPoolExecutor(len(names)) as pool:
        files = list(pool.map(save, names))
    assert len({file["uri"] for file in files}) == len(names)
    for name, file in zip(names, files, strict=True):
        assert content_of(file["uri"]).endswith(name.encode())
        assert json.loads(Path(f"{file['uri'][7:]}.json").read_text())["id"] == name


# --- percent signs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["day one", "50%20off", "100%", "a+b:c=d", "no#1"])
def test_the_address_of_a_local_file_opens_with_airflows_path(tmp_path: Path, folder: str) -> None:
    from airflow.sdk import ObjectStoragePath

    (file,) = saved(f"{tmp_path}/{folder}/", "one")
    assert ObjectStoragePath(file["uri"]).read_bytes().endswith(b"one")
    where = ObjectStoragePath(f"file://{tmp_path}/{folder}/again/")
    (again,) = save_output(VaceHook(), succeeded("two"), to(where))
    assert (tmp_path / folder / "again").is_dir()
    assert ObjectStoragePath(again["uri"]).exists()


def test_an_encoded_address_of_an_earlier_release_is_still_held(tmp_path: Path) -> None:
    (file,) = saved(f"{tmp_path}/day one/", "one")
    earlier = {**file, "uri": file["uri"].replace(" ", "%20")}
    held = replace(succeeded("one", url_of("one")), files=[earlier])
    assert to(f"{tmp_path}/day one/").holds(held, Timing())
    assert not to(f"{tmp_path}/day two/").holds(held, Timing())


def test_ids_with_other_letters_have_names_of_their_own(tmp_path: Path) -> None:
    destination = to(f"{tmp_path}/", None)
    names = {destination.place_of(name, None, ".mp4").name for name in ("a:b", "a=b", "a/b", "a.b", "a_b")}
    assert len(names) == 5
    assert all("/" not in name and ":" not in name for name in names)
