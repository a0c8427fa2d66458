"""Last frames, and videos one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from airflow_vace.exceptions import VaceInputError
from airflow_vace.video import inspect, join, last_frame
from airflow_vace.video.reading import pictures
from support import clips

if TYPE_CHECKING:
    from pathlib import Path


def frames_of(path: Path) -> Any:
    return np.stack([picture for _, picture in pictures(path)])


def film(path: Path, seed: int, coding: int = 1, count: int = 9, *, fps: int = 16, width: int = 96) -> Path:
    return clips.write(path, clips.pan(np.random.default_rng(seed), width, 64, count), coding, fps=fps)


def test_the_last_frame_is_exact(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", 1)
    assert last_frame(path, tmp_path / "frames" / "last.png") == tmp_path / "frames" / "last.png"
    image = Image.open(tmp_path / "frames" / "last.png")
    assert image.format == "PNG"
    assert (np.asarray(image) == frames_of(path)[-1]).all()


def test_equal_clips_are_copied_without_a_loss(tmp_path: Path) -> None:
    paths = [film(tmp_path / f"{seed}.mp4", seed) for seed in range(3)]
    joined = join(paths, to=tmp_path / "all.mp4")
    assert (frames_of(joined) == np.concatenate([frames_of(path) for path in paths])).all()
    facts = inspect(joined)
    assert (facts.frames, facts.declared_frames, facts.fps) == (27, 27, 16.0)
    times = [at for at, _ in pictures(joined)]
    assert times == pytest.approx([number / 16 for number in range(27)], abs=1e-3)


def test_an_overlap_is_shown_once(tmp_path: Path) -> None:
    whole = list(clips.pan(np.random.default_rng(1), 96, 64, 21))
    first = clips.write(tmp_path / "a.mp4", whole[:13], 1)
    second = clips.write(tmp_path / "b.mp4", whole[8:], 1)
    joined = frames_of(join([first, second], overlap=5, to=tmp_path / "all.mp4"))
    assert len(joined) == 21
    assert np.abs(joined.astype(int) - np.stack(whole)).mean() < 6


def test_other_codecs_and_sizes_are_fitted_to_the_first(tmp_path: Path) -> None:
    first = film(tmp_path / "a.mp4", 1)
    others = [film(tmp_path / "b.mp4", 2, coding=4), film(tmp_path / "c.mp4", 3, width=128)]
    facts = inspect(join([first, *others], to=tmp_path / "all.mp4"))
    assert (facts.width, facts.height, facts.frames) == (96, 64, 27)
    assert (facts.codec, facts.fps) == ("h264", 16.0)


def test_another_rate_keeps_its_speed(tmp_path: Path) -> None:
    paths = [film(tmp_path / "a.mp4", 1, fps=16, count=16), film(tmp_path / "b.mp4", 2, fps=32, count=32)]
    facts = inspect(join(paths, to=tmp_path / "all.mp4"))
    assert (facts.frames, facts.seconds) == (32, 2.0)


@pytest.mark.parametrize(
    ("suffix", "codec", "layout"),
    [
        (".gif", "gif", "rgb8"),
        (".webm", "libvpx", "yuv420p"),
        (".mov", "prores_ks", "yuv422p10le"),
        (".mkv", "libx264", "yuv420p"),
        (".ts", "libx264", "yuv420p"),
        (".avi", "libx264", "yuv420p"),
    ],
)
def test_films_that_an_mp4_cannot_take_as_they_are_are_encoded(
    tmp_path: Path, suffix: str, codec: str, layout: str
) -> None:
    paths = [tmp_path / f"{seed}{suffix}" for seed in range(2)]
    for seed, path in enumerate(paths):
        with av.open(path, "w") as container:
            stream: Any = container.add_stream(codec, rate=20)
            stream.width, stream.height, stream.pix_fmt = 96, 64, layout
            for picture in clips.pan(np.random.default_rng(seed), 96, 64, 9):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(stream.encode(frame.reformat(format=layout)))
            container.mux(stream.encode(None))
    joined = join(paths, to=tmp_path / "all.mp4")
    assert [at for at, _ in pictures(joined)] == pytest.approx(
        [number / 20 for number in range(18)], abs=2e-3
    )
    shown = np.concatenate([frames_of(path) for path in paths])
    # The dither of a GIF is lost.
    assert np.abs(frames_of(joined).astype(int) - shown).mean() < 16


def test_pictures_that_an_edit_list_hides_stay_hidden(tmp_path: Path) -> None:
    paths = [clips.shortened(film(tmp_path / f"{seed}.mp4", seed, count=17)) for seed in range(2)]
    shown = np.concatenate([frames_of(path) for path in paths])
    joined = frames_of(join(paths, to=tmp_path / "all.mp4"))
    assert joined.shape == shown.shape
    assert np.abs(joined.astype(int) - shown).mean() < 6


def test_a_name_may_contain_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "2026-11-28T10:00:00.mp4", 1)
    joined = join(["2026-11-28T10:00:00.mp4"], to="2026-11-28T11:00:00.mp4")
    assert (tmp_path / joined).exists()
    assert inspect("2026-11-28T11:00:00.mp4").frames == 9


def test_a_single_video_is_copied(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 1)
    assert (frames_of(join([path], to=tmp_path / "all.mp4")) == frames_of(path)).all()


@pytest.mark.parametrize(
    ("videos", "overlap", "words"),
    [
        ([], 0, "is not a list of files"),
        ("a.mp4", 0, "is not a list of files"),
        (["a.mp4"], -1, "overlap is negative"),
        (["a.mp4", "a.mp4"], 9, "leaves nothing of"),
    ],
)
def test_a_mistake_leaves_no_file(tmp_path: Path, videos: Any, overlap: int, words: str) -> None:
    film(tmp_path / "a.mp4", 1)
    named = [tmp_path / name for name in videos] if isinstance(videos, list) else videos
    with pytest.raises(VaceInputError, match=words):
        join(named, overlap=overlap, to=tmp_path / "all.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_turned_clips_are_joined_upright(tmp_path: Path) -> None:
    paths = [clips.turned(film(tmp_path / f"{seed}.mp4", seed)) for seed in range(2)]
    facts = inspect(join(paths, to=tmp_path / "all.mp4"))
    assert (facts.width, facts.height, facts.frames) == (64, 96, 18)


def test_the_last_picture_of_an_animation_is_its_last_frame(tmp_path: Path) -> None:
    images = [Image.new("RGB", (96, 64), colour) for colour in ("red", "lime", "blue")]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], duration=100)
    last_frame(tmp_path / "clip.gif", tmp_path / "last.png")
    assert Image.open(tmp_path / "last.png").getpixel((40, 30)) == (0, 0, 255)
