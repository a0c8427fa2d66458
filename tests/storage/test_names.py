"""Names: too long ones are refused before any payment, generated ones always fit."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_vace.exceptions import VaceInputError
from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VacePredictionOperator
from airflow_vace.storage.find import find_saved
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.save import save_output
from support import saving
from support.films import DATA_URL, MP4
from support.saving import succeeded
from support.stores import files_in

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_vace.emulator import Emulator
    from airflow_vace.storage.destination import Destination

pytestmark = pytest.mark.usefixtures("hurry", "any_connection", "memory")

TASK = SimpleNamespace(dag_id="d" * 200, run_id="r" * 200, task_id="t" * 200, map_index=12345)
FOX = "\N{FOX FACE}"  # four bytes
LONGEST_ID = "p" * 200


def to(save_to: object, ti: Any = None) -> Destination:
    return saving.to(save_to, ti)


@pytest.mark.parametrize(
    ("stem", "ti", "size"),
    [
        ("f" * 300, None, 314),
        ("m" * 248, None, 262),
        (FOX * 62, None, 262),
        ("\N{CJK UNIFIED IDEOGRAPH-72D0}" * 83, None, 263),
        ("i" * 241, SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=1000), 260),
    ],
    ids=["file", "manifest", "emoji", "CJK", "mapped"],
)
def test_a_file_name_of_too_many_bytes_is_refused(tmp_path: Path, stem: str, ti: Any, size: int) -> None:
    with pytest.raises(VaceInputError, match=f"file name of {size} bytes .* at most 255 ") as caught:
        to(f"{tmp_path}/{stem}.mp4", ti).check()
    assert caught.value.field == "save_to"
    assert caught.value.value == f"{tmp_path}/{stem}.mp4"
    assert "shorten the name" in caught.value.remedy


def test_a_task_with_too_long_a_name_pays_nothing(fast_emulator: Emulator, tmp_path: Path) -> None:
    task = VacePredictionOperator(
        task_id="t",
        input={"prompt": "a fox"},
        save_to=f"{tmp_path}/{FOX * 63}.mp4",
        wait_for_completion=True,
        deferrable=False,
    )
    with pytest.raises(Exception, match="shorten the name"):
        task.execute({"ti": None})  # type: ignore[typeddict-item]
    assert fast_emulator.bill["predictions"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stem", ["a" * 241, FOX * 60], ids=["letters", "emoji"])
def test_the_longest_name_that_is_accepted_is_saved(tmp_path: Path, stem: str) -> None:
    destination = to(f"{tmp_path}/{stem}.mp4")
    assert destination.check() is None
    files = save_output(VaceHook(), succeeded(output=[DATA_URL, DATA_URL]), destination)
    assert find_saved(VaceHook(), destination, "abc") == files
    assert len(list(tmp_path.iterdir())) == 4


def test_the_longest_name_has_room_for_hundreds_of_outputs(tmp_path: Path) -> None:
    destination = to(f"{tmp_path}/{'a' * 241}.mp4")
    assert destination.check() is None
    assert len(save_output(VaceHook(), succeeded(output=[DATA_URL] * 101), destination)) == 101
    with pytest.raises(VaceInputError, match="shorten the name"):
        to(f"{tmp_path}/{'a' * 242}.mp4").check()


def test_a_directory_name_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    for save_to in (f"{tmp_path}/{FOX * 70}/a.mp4", f"{tmp_path}/{'d' * 256}/", f"memory://b/{'d' * 256}/"):
        with pytest.raises(VaceInputError, match=r"directory name of 2\d\d bytes where at most 255"):
            to(save_to).check()


@pytest.mark.parametrize("name", ["a.mp4", ""], ids=["file", "directory"])
def test_a_path_of_too_many_bytes_is_refused(tmp_path: Path, name: str) -> None:
    folder = f"{tmp_path}/" + "d" * 200
    while len(folder) < 4070:
        folder += "/" + "d" * min(200, 4080 - len(folder))
    with pytest.raises(VaceInputError, match=r"file name of \d+ bytes .* at most \d+ are possible"):
        to(f"{folder}/{name}").check()


@pytest.mark.usefixtures("object_store")
@pytest.mark.parametrize(
    ("possible", "too_long"),
    [
        (f"{'k' * 1010}.mp4", f"{'k' * 1011}.mp4"),
        (f"{FOX * 252}.mp4", f"{FOX * 253}.mp4"),
        (f"{'k' * 600}/", f"{'k' * 1000}/"),
    ],
)
def test_a_key_in_an_object_store_has_at_most_1024_bytes(possible: str, too_long: str) -> None:
    assert to(f"memory://b/{possible}").check() is None
    with pytest.raises(VaceInputError, match="are possible"):
        to(f"memory://b/{too_long}").check()


def test_a_limit_is_the_file_systems_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pathconf
    monkeypatch.setattr(os, "pathconf", lambda path, name: 143 if name == "PC_NAME_MAX" else real(path, name))
    with pytest.raises(VaceInputError, match="at most 143"):
        to(f"{tmp_path}/{'n' * 150}.mp4").check()
    destination = to(f"{tmp_path}/", TASK)
    assert destination.check() is None
    (file,) = save_output(VaceHook(), succeeded(LONGEST_ID), destination)
    *folders, name = str(file["uri"]).removeprefix(tmp_path.as_uri()).split("/")
    assert max(len(part) for part in [*folders, f"{name}.json"]) <= 143


# --- names of ours ---------------------------------------------------------------------------------


def test_in_a_directory_any_predictions_name_fits_and_is_found(tmp_path: Path) -> None:
    destination = to(f"{tmp_path}/", TASK)
    assert destination.check() is None
    saved = [
        save_output(VaceHook(), succeeded(name), destination) for name in (LONGEST_ID, LONGEST_ID[1:] + "q")
    ]
    assert len({files[0]["uri"] for files in saved}) == 2
    assert find_saved(VaceHook(), to(f"{tmp_path}/", TASK), LONGEST_ID) == saved[0]
    (folder,) = (tmp_path / ("d" * 150)).iterdir()
    assert len(list(folder.iterdir())) == 4


def test_a_name_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    place = to(f"{tmp_path}/", TASK).place_of("p" * 128, None, ".mp4")
    assert place.name == f"{'t' * 100}-12345-{'p' * 128}.mp4"


def test_a_long_prefix_in_a_store_shortens_the_name_behind_it(object_store: Any) -> None:
    save_to = f"memory://b/{'k' * 600}/"
    files = save_output(VaceHook(), succeeded(LONGEST_ID, [DATA_URL, DATA_URL]), to(save_to, TASK))
    assert len(files) == 2
    assert max(len(path.removeprefix("/b/")) for path in files_in(object_store)) <= 1024
    assert find_saved(VaceHook(), to(save_to, TASK), LONGEST_ID) == files


@pytest.mark.parametrize("name", [f"{FOX * 60}.mp4", f"a{FOX * 60}.mp4", "a" * 250])
def test_a_temporary_name_fits_for_any_final_name(tmp_path: Path, name: str) -> None:
    part = place_of(f"{tmp_path}/{name}", "x").new_part(".mp4", 3600)
    assert part.parent == tmp_path
    assert len(os.fsencode(part.name)) <= 143


def test_a_temporary_name_in_a_store_is_cut_by_bytes(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    put = type(memory).put_file

    def put_file(fs: Any, lpath: str, rpath: str, **options: Any) -> None:
        name = rpath.rpartition("/")[2].encode()
        names.append(name)
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        put(fs, lpath, rpath, **options)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    save_output(VaceHook(), succeeded(), to(f"memory://b/{FOX * 60}.mp4"))
    assert [name[-5:] for name in names] == [b".part", b".part"]


# --- other names that can't be -----------------------------------------------------------------------


def test_a_directory_under_the_final_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4.json").mkdir()
    with pytest.raises(VaceInputError, match="is a directory; give another name"):
        to(f"{tmp_path}/clip.mp4").check()
    with pytest.raises(VaceInputError, match="NUL"):
        to(f"{tmp_path}/a\0b.mp4")


def test_mapped_instances_never_share_a_name_with_several_numbers() -> None:
    for stem in ("2026-11-28", "s1e2", "take-3-of-8", "clip_2026-11-28T10:11:12", "20261128"):
        names = {
            to(f"/clips/{stem}.mp4", SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=index))
            .place_of("abc", None, ".mp4")
            .name
            for index in range(40)
        }
        assert len(names) == 40


def test_a_file_has_the_mode_that_a_plain_open_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_output(VaceHook(), succeeded(), to(f"{tmp_path}/clip.mp4"))
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o640}


@pytest.mark.parametrize("name", ["what?.mp4", "*.mp4", "[a] fox.mp4", "a?/*/"])
def test_a_name_in_a_store_is_no_pattern(memory: Any, name: str) -> None:
    memory.pipe("/b/other.mp4", b"other")
    (saved,) = save_output(VaceHook(), succeeded(), to(f"memory://b/{name}", None))
    assert ObjectStoragePath(saved["uri"]).read_bytes() == MP4
    assert memory.cat_file("/b/other.mp4") == b"other"
    assert find_saved(VaceHook(), to(f"memory://b/{name}", None), "abc") == [saved]
    assert not any(path.endswith(".part") for path in memory.store)
