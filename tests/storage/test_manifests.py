"""Search for saved files by their manifests, and pairs of file and manifest under concurrent saves."""

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
from airflow_vace.storage.find import find_saved
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.save import save_output
from airflow_vace.storage.store import StoreFile
from support.films import DATA_URL, GIF, MP4, WEBM, box
from support.saving import TASK, succeeded, to
from support.scripted import Scripted, head
from support.stores import files_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.storage.destination import Destination

pytestmark = pytest.mark.usefixtures("hurry", "any_connection")

GIF_URL = "data:image/gif," + "".join(f"%{byte:02x}" for byte in GIF)


def url_of(content: bytes) -> str:
    return "data:video/mp4," + "".join(f"%{byte:02x}" for byte in content)


def found(destination: Destination, identifier: str = "abc") -> list[dict[str, Any]] | None:
    return find_saved(VaceHook(), destination, identifier)


@pytest.fixture(params=["local", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> str:
    del memory
    return str(tmp_path) if request.param == "local" else "memory://b"


def change(root: str, name: str, write: Callable[[bytes], bytes | None]) -> None:
    """Change or delete a file from outside."""
    place = place_of(f"{root}/{name}", "x")
    content = write(place.read(0, 10_000_000))
    if isinstance(place, LocalFile):
        place.path.unlink() if content is None else place.path.write_bytes(content)
        return
    assert isinstance(place, StoreFile)
    if content is None:
        place.fs.rm_file(place.path)
    else:
        place.fs.pipe_file(place.path, content)


# --- finding what is saved -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clips/", "clips/latest.mp4"], ids=["directory", "file"])
@pytest.mark.parametrize(
    "output",
    [DATA_URL, GIF_URL, [DATA_URL, GIF_URL, DATA_URL], [GIF_URL, GIF_URL]],
    ids=["one", "GIF", "mixed", "GIFs"],
)
def test_saved_files_are_found_without_the_back_end(root: str, name: str, output: Any) -> None:
    destination = to(f"{root}/{name}")
    assert found(destination) is None
    files = save_output(VaceHook(), succeeded(output=output), destination)
    assert found(to(f"{root}/{name}")) == files
    assert found(destination, "abcd") is None
    assert found(destination, "ab") is None


def test_a_mapped_instance_finds_its_own_file_only(root: str) -> None:
    def instance(index: int) -> Destination:
        return to(f"{root}/latest.mp4", SimpleNamespace(**{**vars(TASK), "map_index": index}))

    files = save_output(VaceHook(), succeeded(), instance(3))
    assert found(instance(3)) == files
    assert found(instance(4)) is None


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("latest-2.mp4", lambda _: None),
        ("latest-2.mp4.json", lambda _: None),
        ("latest-3.mp4", lambda content: content[:-1]),
        ("latest-1.mp4.json", lambda _: b"["),
        ("latest-1.mp4.json", lambda _: b""),
        ("latest-3.mp4.json", lambda content: content.replace(b'"abc"', b'"another"')),
    ],
    ids=["no file", "no manifest", "too short", "no JSON", "empty", "another's"],
)
def test_an_incomplete_set_of_files_is_not_found(
    root: str, name: str, write: Callable[[bytes], bytes | None]
) -> None:
    destination = to(f"{root}/latest.mp4")
    save_output(VaceHook(), succeeded(output=[DATA_URL] * 3), destination)
    assert found(destination)
    change(root, name, write)
    assert found(destination) is None


def test_manifests_of_an_older_version_count_as_far_as_they_go(root: str) -> None:
    destination = to(f"{root}/latest.mp4")
    files = save_output(VaceHook(), succeeded(output=[DATA_URL] * 3), destination)

    def older(content: bytes) -> bytes:
        known = json.loads(content)
        return json.dumps({key: known[key] for key in known if key not in ("output", "outputs")}).encode()

    for number in (1, 2, 3):
        change(root, f"latest-{number}.mp4.json", older)
    assert found(destination) == files
    change(root, "latest-3.mp4.json", lambda _: None)
    assert found(destination) == files[:2]
    change(root, "latest-1.mp4.json", lambda _: None)
    assert found(destination) is None


def test_a_store_without_an_answer_does_not_count_as_empty(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    destination = to("memory://b/latest.mp4")
    save_output(VaceHook(), succeeded(), destination)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("may only write")

    monkeypatch.setattr(type(memory), "cat_file", refused)
    assert found(destination) is None
    assert "abc is saved at memory://b/latest.mp4 is not known" in capfd.readouterr().out


def test_a_key_without_list_permission_finds_any_type(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = save_output(VaceHook(), succeeded(output=[GIF_URL]), to("memory://b/clips/"))
    read = type(memory).cat_file

    def refused_if_missing(fs: Any, path: str, **options: Any) -> Any:
        try:
            return read(fs, path, **options)
        except FileNotFoundError:
            raise PermissionError("403") from None  # as S3 answers without s3:ListBucket

    monkeypatch.setattr(type(memory), "cat_file", refused_if_missing)
    assert found(to("memory://b/clips/")) == files


def test_a_video_is_found_with_two_requests_to_its_store(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_output(VaceHook(), succeeded(), to("memory://b/clips/"))
    calls = []
    for call in ("cat_file", "info", "ls", "find", "exists"):
        real = getattr(type(memory), call)

        def counted(fs: Any, *args: Any, real: Any = real, call: str = call, **options: Any) -> Any:
            calls.append(call)
            return real(fs, *args, **options)

        monkeypatch.setattr(type(memory), call, counted)
    assert found(to("memory://b/clips/"))
    assert sorted(calls) == ["cat_file", "info"]


# --- manifests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["one", "many"])
def test_a_file_saved_as_another_kind_is_not_fetched_again(
    root: str, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    film = head("200 OK", Content_Type="video/webm", Content_Length=len(WEBM)) + WEBM
    many = 2 if output == "many" else 1
    with Scripted([*[film] * many, head("404 Not Found", Content_Length=0)]) as server:
        monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", server.connection)
        urls = [f"{server.url}/{number}.mp4" for number in range(many)]
        files = save_output(VaceHook(), succeeded(output=urls), to(f"{root}/clips/"))
        assert all(file["uri"].endswith(".webm") for file in files)
        assert save_output(VaceHook(), succeeded(output=urls), to(f"{root}/clips/")) == files
        assert len(server.seen) == many


def test_a_manifest_keeps_nothing_that_opens_an_address(tmp_path: Path) -> None:
    secret = "https://a/b?sig=SECRETsecret"
    signed = succeeded(metrics={"x": secret, secret: 1}, version=secret, model=secret, created_at=secret)
    (file,) = save_output(VaceHook(), signed, to(f"{tmp_path}/a.mp4"))
    assert "SECRETsecret" not in (tmp_path / "a.mp4.json").read_text()
    assert file["size"]


def test_a_manifest_says_whose_the_video_is(tmp_path: Path) -> None:
    destination = to(f"{tmp_path}/latest.mp4", SimpleNamespace(**{**vars(TASK), "map_index": 2}))
    labelled = replace(destination, task={**destination.task, "label": "red shoes"})
    save_output(VaceHook(), succeeded(output=[DATA_URL, DATA_URL], input={"seed": 7}), labelled)
    manifest = json.loads((tmp_path / "latest-2-2.mp4.json").read_bytes())
    known = {name: manifest[name] for name in ("label", "map_index", "seed", "output", "outputs")}
    assert known == {"label": "red shoes", "map_index": 2, "seed": 7, "output": 2, "outputs": 2}


@pytest.mark.parametrize("prompt", ["a fox, \ud83d half a pair", "f" * 2_000_000], ids=["letters", "size"])
def test_a_manifest_is_written_for_any_input(tmp_path: Path, prompt: str) -> None:
    prediction = succeeded(input={"prompt": prompt}, metrics={"note": "n" * 2_000_000})
    files = save_output(VaceHook(), prediction, to(f"{tmp_path}/latest.mp4"))
    assert found(to(f"{tmp_path}/latest.mp4")) == files
    manifest = json.loads((tmp_path / "latest.mp4.json").read_bytes())
    assert manifest["input"]["prompt"][:5] == prompt[:5]


# --- two tasks, one name ---------------------------------------------------------------------------


def of_run(name: str) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(TASK), "run_id": name})


FILMS = {name: MP4 + box(b"free", name.encode() * 1000) for name in ("one", "two", "six", "ten")}


def test_two_tasks_that_save_at_once_leave_no_mixed_pair(tmp_path: Path) -> None:
    start = threading.Barrier(len(FILMS))

    def save(name: str) -> None:
        start.wait(60)
        for _ in range(20):
            destination = to(f"{tmp_path}/latest.mp4", of_run(name))
            save_output(VaceHook(), succeeded(name, url_of(FILMS[name])), destination)
            with place_of(f"{tmp_path}/latest.mp4", "x").locked(10):
                manifest = json.loads((tmp_path / "latest.mp4.json").read_bytes())
                assert (tmp_path / "latest.mp4").read_bytes() == FILMS[manifest["id"]]

    with ThreadPoolExecutor(len(FILMS)) as pool:
        list(pool.map(save, FILMS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.mp4", "latest.mp4.json"]


def test_a_pair_is_put_in_place_without_another_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_run = to(f"{tmp_path}/latest.mp4", of_run("two"))
    rename, is_first = Path.replace, [True]
    others: list[threading.Thread] = []

    def interrupted(part: Path, target: Path) -> None:
        rename(part, target)
        if is_first.pop() if is_first else False:
            other = threading.Thread(
                target=save_output, args=(VaceHook(), succeeded("two", url_of(FILMS["two"])), other_run)
            )
            other.start()
            other.join(0.5)  # without the lock the other save would end by then
            others.append(other)

    monkeypatch.setattr(Path, "replace", interrupted)
    save_output(VaceHook(), succeeded("one", url_of(FILMS["one"])), to(f"{tmp_path}/latest.mp4"))
    others[0].join(60)
    manifest = json.loads((tmp_path / "latest.mp4.json").read_bytes())
    assert manifest["id"] == "two"
    assert (tmp_path / "latest.mp4").read_bytes() == FILMS["two"]


def test_a_file_system_without_locks_is_saved_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    assert save_output(VaceHook(), succeeded(), to(f"{tmp_path}/latest.mp4"))
    assert found(to(f"{tmp_path}/latest.mp4"))


def test_a_process_that_dies_in_between_leaves_no_mixed_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = to(f"{tmp_path}/latest.mp4")
    save_output(VaceHook(), succeeded("one", url_of(FILMS["one"])), destination)
    rename = Path.replace

    def killed(part: Path, target: Path) -> None:
        rename(part, target)
        raise SystemExit

    monkeypatch.setattr(Path, "replace", killed)
    next_run = to(f"{tmp_path}/latest.mp4", of_run("r2"))
    with pytest.raises(SystemExit):
        save_output(VaceHook(), succeeded("two", url_of(FILMS["two"])), next_run)
    assert (tmp_path / "latest.mp4").read_bytes() == FILMS["two"]
    assert not (tmp_path / "latest.mp4.json").exists()
    assert found(destination, "one") is None


def test_a_store_warns_of_another_task_that_saved_there_too(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    destination = to("memory://b/latest.mp4")
    put, calls = type(memory).put_file, []

    def put_file(fs: Any, lpath: str, rpath: str, **options: Any) -> None:
        calls.append(rpath)
        put(fs, lpath, rpath, **options)

    def mv(fs: Any, path: str, to_path: str, **options: Any) -> None:
        move(fs, path, to_path, **options)
        if to_path.endswith(".json"):
            fs.pipe_file(to_path, b'{"id": "another", "size": 5}')

    move = type(memory).mv
    monkeypatch.setattr(type(memory), "put_file", put_file)
    monkeypatch.setattr(type(memory), "mv", mv)
    save_output(VaceHook(), succeeded(), destination)
    assert "and so was prediction another at the same time" in capfd.readouterr().out
    assert len(calls) == 2
    assert json.loads(files_in(memory)["/b/latest.mp4.json"])["id"] == "another"


def test_a_file_that_another_prediction_took_over_is_not_held(root: str) -> None:
    destination = to(f"{root}/latest.mp4")
    one = succeeded("one", url_of(FILMS["one"]))
    held = replace(one, files=save_output(VaceHook(), one, destination))
    assert destination.holds(held, Timing())
    save_output(VaceHook(), succeeded("two", url_of(FILMS["two"])), to(f"{root}/latest.mp4", of_run("r2")))
    assert not destination.holds(held, Timing())
