"""Saved files of the Videos tab: byte ranges, checks of addresses, stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_vace.ui.files import range_of
from support.site import DAG_ID, Site, asked_for, saved


def test_a_saved_video_is_sent_whole_and_in_ranges(site: Site) -> None:
    card = saved(site)
    (video,) = card["videos"]
    path = video["src"].removeprefix("/vace")
    (file,) = site.roots.rglob(f"*{card['id']}.mp4")
    content = file.read_bytes()
    whole = site.get(path)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["Content-Type"] == "video/mp4"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert "no-store" in whole.headers["Cache-Control"]
    size = len(content)
    for header, start, end in (
        ("bytes=0-", 0, size),
        ("bytes=10-19", 10, 20),
        ("bytes=-7", size - 7, size),
        (f"bytes={size - 1}-{size + 100}", size - 1, size),
    ):
        part = site.get(path, Range=header)
        assert (part.status_code, part.content) == (206, content[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["Content-Length"] == str(end - start)
    beyond = site.get(path, Range=f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=0-1,3-4", "bytes=9-5", "bytes=-", "bytes=a-b"):
        answer = site.get(path, Range=odd)
        assert (answer.status_code, answer.content) == (200, content)
        assert "Content-Range" not in answer.headers
    head = site.get(path, method="HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(size))


def test_a_saved_video_has_a_poster_and_facts(site: Site) -> None:
    card = saved(site)
    (video,) = card["videos"]
    assert video["poster"] == video["src"].replace("/files/", "/posters/")
    assert (video["facts"]["width"], video["facts"]["height"]) == (832, 480)
    assert video["facts"]["problems"] == []
    (file,) = site.roots.rglob(f"*{card['id']}.mp4.jpg")
    by_task = f"{site.run}/poster?task_id=clip&map_index={card['map_index']}"
    for path in (video["poster"].removeprefix("/vace"), by_task):
        answer = site.get(path)
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert site.get(f"{site.run}/poster?task_id=summary").status_code == 404
    assert site.get(f"{site.run}/poster?task_id=nobody").status_code == 404


def test_a_rejected_clip_is_sent_if_below_the_roots(
    site: Site, result: dict[str, Any], tmp_path: Path
) -> None:
    index = result["map_index"]
    (site.roots / "rejected.mp4").write_bytes(b"black")
    (tmp_path / "outside.mp4").write_bytes(SECRET)
    clips = [
        {"id": f"p{number}", "seed": number, "uri": f"file://{path}", "problems": ["All frames are black."]}
        for number, path in enumerate((site.roots / "rejected.mp4", tmp_path / "outside.mp4"))
    ]
    site.put({**result, "rejected": clips}, map_index=index)
    (card,) = site.cards(f"?task_id=clip&map_index={index}")
    inside, outside = card["rejected"]
    assert (inside["problems"], outside["src"]) == (["All frames are black."], None)
    assert str(tmp_path) not in str(card)
    path = inside["src"].removeprefix("/vace")
    assert site.get(path).content == b"black"
    for missing in ("1", "2"):
        assert site.get(f"{path.removesuffix('0')}{missing}").status_code == 404


def test_a_saved_video_has_a_manifest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(site)["videos"][0]["src"].removeprefix("/vace").replace("/files/", "/manifests/")
    answer = site.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.json()["input"]["seed"] == 7
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "/nowhere/")
    assert site.get(path).status_code == 404


@pytest.mark.parametrize("trick", ["file:///etc/passwd", "{outside}/a.jpg", "{roots}/page.html", 7, None])
def test_only_posters_below_the_roots_are_sent(
    site: Site, result: dict[str, Any], tmp_path: Path, trick: Any
) -> None:
    (tmp_path / "a.jpg").write_bytes(SECRET)
    uri = (
        trick.format(outside=f"file://{tmp_path}", roots=f"file://{site.roots}")
        if isinstance(trick, str)
        else trick
    )
    index, (file, *_) = result["map_index"], result["files"]
    site.put({**result, "files": [{**file, "poster": uri}]}, map_index=index)
    answer = site.get(f"{site.run}/posters/{site.instance(map_index=index)}/0")
    assert answer.status_code == 404
    (card,) = site.cards(f"?task_id=clip&map_index={index}")
    assert card["videos"][0]["poster"] is None


def test_a_video_is_no_poster(site: Site, result: dict[str, Any]) -> None:
    index, (file, *_) = result["map_index"], result["files"]
    site.put({**result, "files": [{**file, "poster": file["uri"]}]}, map_index=index)
    assert site.get(f"{site.run}/posters/{site.instance(map_index=index)}/0").status_code == 404


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=99-", (99, 100)),
        ("bytes=-200", (0, 100)),
        ("bytes=0-9,20-29", None),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=--1", None),
        ("lines=0-9", None),
        (f"bytes={'9' * 5000}-", None),
        ("bytes=0-" + "9" * 5000, None),
    ],
)
def test_ranges_are_read_as_in_rfc_9110(header: str | None, asked: tuple[int, int] | None) -> None:
    assert range_of(header, 100) == asked


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=0-", 0), ("bytes=-5", 0), ("bytes=-0", 9), ("bytes=9-", 9)]
)
def test_a_range_beyond_the_file_is_an_error(header: str, size: int) -> None:
    with pytest.raises(ValueError, match="no byte"):
        range_of(header, size)


SECRET = b"not for everybody"


@pytest.fixture
def tricky(site: Site, tmp_path: Path) -> dict[str, str]:
    """Create files that must not be sent, and return names for addresses."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("secret.mp4", "passwd"):
        (outside / name).write_bytes(SECRET)
    for link, target in (
        ("link.mp4", outside / "secret.mp4"),
        ("folder", outside),
        ("circle.mp4", site.roots / "circle.mp4"),
        ("typed.mp4", outside / "passwd"),
    ):
        path = site.roots / link
        if not path.is_symlink():
            path.symlink_to(target)
        elif path.readlink() != target:
            path.unlink()
            path.symlink_to(target)
    (site.roots / "page.html").write_bytes(SECRET)
    (site.roots / "script.svg").write_bytes(SECRET)
    (site.roots / "manifest.mp4.json").write_bytes(SECRET)
    (site.roots / "directory.mp4").mkdir(exist_ok=True)
    beside = Path(f"{site.roots}-beside")
    beside.mkdir(exist_ok=True)
    (beside / "secret.mp4").write_bytes(SECRET)
    up = "/".join([".."] * 12)
    return {"roots": str(site.roots), "outside": str(outside), "beside": str(beside), "up": up}


@pytest.mark.parametrize(
    "trick",
    [
        "file://{outside}/secret.mp4",
        "file://{beside}/secret.mp4",
        "file://{roots}/{up}{outside}/secret.mp4",
        "file://{roots}/../secret.mp4",
        "file://{roots}/./../secret.mp4",
        "file://{roots}/%2e%2e/secret.mp4",
        "file://{roots}/%2E%2E%2F{up}{outside}/secret.mp4",
        "file://{roots}/%252e%252e/secret.mp4",
        "file://{roots}/..%2fsecret.mp4",
        "file://{roots}/..%5csecret.mp4",
        "file://{roots}/..\\secret.mp4",
        "file://{roots}/link.mp4",
        "file://{roots}/folder/secret.mp4",
        "file://{roots}/circle.mp4",
        "file://{roots}/typed.mp4",
        "file://{roots}/page.html",
        "file://{roots}/script.svg",
        "file://{roots}/manifest.mp4.json",
        "file://{roots}/directory.mp4",
        "file://{roots}/none.mp4",
        "file://{roots}",
        "file://{roots}/",
        "file://localhost{outside}/secret.mp4",
        "file://elsewhere.example{roots}/secret.mp4",
        "file:{outside}/secret.mp4",
        "file:////{outside}/secret.mp4",
        "FILE://{outside}/secret.mp4",
        "{outside}/secret.mp4",
        "../secret.mp4",
        "~/secret.mp4",
        "file:///proc/self/environ",
        "file:///proc/self/cwd/secret.mp4",
        "file:///dev/zero",
        "file:///etc/passwd",
        "file://{roots}/x.mp4\x00.html",
        "file://{roots}/x.mp4%00",
        "file://{roots}/x\n.mp4",
        "file://{outside}/secret.mp4?x={roots}/a.mp4",
        "file://{outside}/secret.mp4#.mp4",
        "http://127.0.0.1:1/secret.mp4",
        "https://elsewhere.example/secret.mp4",
        "s3://my-bucket/secret.mp4",
        "s3://aws_default@my-bucket/secret.mp4",
        "memory://store/../secret.mp4",
        "memory://store/clips-beside/secret.mp4",
        "memory://store/clips/../secret.mp4",
        "memory://store/clips/%2e%2e/secret.mp4",
        "memory://store/clips//secret.mp4",
        "memory://conn@store/clips/a.mp4",
        "memory://other/clips/secret.mp4",
        "memory://store/secret.mp4",
        "data:video/mp4;base64,AAAA",
        "",
        "file://",
        "://",
        None,
        7,
        ["file:///etc/passwd"],
        {"uri": "file:///etc/passwd"},
    ],
    ids=repr,
)
def test_only_videos_below_the_roots_are_sent(
    site: Site, result: dict[str, Any], tricky: dict[str, str], monkeypatch: pytest.MonkeyPatch, trick: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", f"{site.roots}/, memory://store/clips/")
    uri = trick.format(**tricky) if isinstance(trick, str) else trick
    answer = asked_for(site, result, uri)
    assert answer.status_code == 404
    assert SECRET not in answer.content


def test_a_link_within_the_roots_leads_to_its_file(site: Site, result: dict[str, Any]) -> None:
    (file, *_) = site.roots.rglob("clip-*.mp4")
    (site.roots / "latest.mp4").symlink_to(file)
    assert asked_for(site, result, (site.roots / "latest.mp4").as_uri()).content == file.read_bytes()


@pytest.mark.parametrize("root", ["memory://nobody@store/clips/", "nosuch://store/clips/"])
def test_an_unusable_root_does_not_break_the_gallery(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", root)
    uri = root.replace("nobody@", "") + "a.mp4"
    index = result["map_index"]
    site.put({**result, "files": [{"uri": uri, "size": 1}]}, map_index=index)
    assert len(site.cards()) == 3
    assert site.get(f"{site.run}/files/{site.instance(map_index=index)}/0").status_code == 502


def test_an_error_of_a_store_is_a_502(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "memory://store/clips/")
    memory.pipe("/store/clips/a.mp4", b"x")

    def throws(path: str, **_: Any) -> Any:
        raise RuntimeError(f"the store's own trouble with {path}")

    monkeypatch.setattr(type(memory), "info", throws)
    index = result["map_index"]
    site.put({**result, "files": [{"uri": "memory://store/clips/a.mp4", "size": 1}]}, map_index=index)
    answer = site.get(f"{site.run}/files/{site.instance(map_index=index)}/0")
    assert answer.status_code == 502
    assert "own trouble" not in answer.text


def test_a_file_of_another_task_or_number_is_not_found(site: Site) -> None:
    card = saved(site)
    path, own = f"{site.run}/files", card["instance"]
    nobody = "00000000-0000-0000-0000-000000000000"
    for other in (f"{site.instance('summary')}/0", f"{nobody}/0", f"{own}/1"):
        assert site.get(f"{path}/{other}").status_code == 404
    for odd in ("clip/0", f"{own}/-1", f"{own}/1e3", "0/0", f"{own}x/0", f"{own}/99999999999999999999999"):
        assert site.get(f"{path}/{odd}").status_code in (404, 422)


def test_an_instance_of_another_dag_is_not_found(site: Site) -> None:
    own = saved(site)["instance"]
    assert site.get(f"{site.run}/files/{own}/0").status_code == 200
    for other in (site.run.replace(DAG_ID, "open"), site.run.rpartition("/")[0] + "/manual__2026"):
        assert site.get(f"{other}/files/{own}/0").status_code == 404


def test_without_roots_no_file_is_sent_and_the_card_says_why(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "")
    index = result["map_index"]
    gone = {**result, "data_removed": True}
    site.put({name: value for name, value in gone.items() if name != "map_index"}, map_index=index)
    (card,) = site.cards(f"?task_id=clip&map_index={index}")
    assert not card["videos"]
    assert "[vace] video_roots" in card["note"]
    assert site.get(f"{site.run}/files/{site.instance(map_index=index)}/0").status_code == 404


def test_a_video_in_a_store_is_read_over_the_roots_connection(
    site: Site, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    monkeypatch.setenv("AIRFLOW__VACE__VIDEO_ROOTS", "memory://store/clips/")
    memory.pipe("/store/clips/a/b.mp4", bytes(range(256)) * 20_000)
    answer = asked_for(site, result, "memory://store/clips/a/b.mp4")
    assert (answer.status_code, len(answer.content)) == (200, 256 * 20_000)
    part = site.get(
        f"{site.run}/files/{site.instance(map_index=result['map_index'])}/0", Range="bytes=256-511"
    )
    assert part.content == bytes(range(256))
