"""Control videos and masks: kept pixels, filler, masks to the pixel, sizes and numbers of frames of VACE."""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import normalize_input
from airflow_vace.video import VideoUnreadable, between, extend, fitting, inpaint, inspect, outpaint
from airflow_vace.video.reading import pictures
from support import clips

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


def frames_of(path: Path | str) -> NDArray[np.uint8]:
    return np.stack([picture for _, picture in pictures(path)])


def psnr(left: NDArray[Any], right: NDArray[Any]) -> float:
    error = float(np.mean((left.astype(float) - right.astype(float)) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-9))


def pair(made: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return video and mask of the same shape, the mask of black and white only."""
    video, mask = frames_of(made["src_video"]), frames_of(made["src_mask"])
    assert video.shape == mask.shape
    assert len(video) == made["frame_num"]
    assert made["frame_num"] % 4 == 1
    assert made["size"] == f"{video.shape[2]}*{video.shape[1]}"
    assert set(np.unique(mask)) <= {0, 255}
    facts = inspect(made["src_video"])
    assert (facts.fps, facts.codec) == (16.0, "h264")
    return video, mask


def film(path: Path, width: int = 832, height: int = 480, count: int = 9, fps: int = 16) -> Path:
    return clips.write(path, clips.pan(np.random.default_rng(3), width, height, count), 1, fps=fps)


# --- in time ---------------------------------------------------------------------------------------


def test_an_extension_keeps_the_end_and_asks_for_the_rest(tmp_path: Path) -> None:
    source = film(tmp_path / "clip.mp4")
    made = extend(source, frames=9, overlap=5, to=tmp_path / "control")
    video, mask = pair(made)
    assert len(video) == 9
    assert psnr(video[:5], frames_of(source)[-5:]) > 48
    assert (mask[:5] == 0).all()
    assert (mask[5:] == 255).all()
    assert (abs(video[5:].astype(int) - 127) <= 1).all()


def test_what_comes_back_is_an_input_without_the_prompt(tmp_path: Path) -> None:
    made = extend(film(tmp_path / "clip.mp4"), frames=9, overlap=1, to=tmp_path)
    values, doubts = normalize_input({**made, "prompt": "a fox runs on"}, paths=True)
    assert doubts == []
    assert values["src_video"] == f"file://{tmp_path}/src_video.mp4"
    assert values["src_mask"] == f"file://{tmp_path}/src_mask.mp4"
    assert (values["size"], values["frame_num"]) == ("832*480", 9)


def test_a_short_clip_is_kept_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = extend(film(tmp_path / "clip.mp4", count=3), frames=9, to=tmp_path, overlap=8)
    _, mask = pair(made)
    assert [bool(frame.any()) for frame in mask] == [False] * 3 + [True] * 6
    assert "has only 3 frames" in caplog.text


def test_a_transition_keeps_both_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ends = [clips.texture(rng, 480, 832) for _ in range(2)]
    for name, picture in zip("ab", ends, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    video, mask = pair(between(tmp_path / "a.png", tmp_path / "b.png", frames=9, to=tmp_path / "control"))
    assert psnr(video[0], ends[0]) > 48
    assert psnr(video[-1], ends[1]) > 48
    assert [bool(frame.any()) for frame in mask] == [False] + [True] * 7 + [False]
    assert (abs(video[1:-1].astype(int) - 127) <= 1).all()


def test_a_transition_between_videos_uses_their_nearest_frames(tmp_path: Path) -> None:
    first, last = film(tmp_path / "a.mp4"), film(tmp_path / "b.mp4", 416, 240, 5)
    video, _ = pair(between(first, last, frames=5, to=tmp_path / "control"))
    assert psnr(video[0], frames_of(first)[-1]) > 48
    wanted = np.asarray(Image.fromarray(frames_of(last)[0]).resize((832, 480)))
    assert psnr(video[-1], wanted) > 30


# --- in space --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("anchor", "top"), [("center", 432), ("top", 0), ("bottom-right", 1280 - 415)])
def test_a_landscape_becomes_a_portrait(tmp_path: Path, anchor: str, top: int) -> None:
    source = film(tmp_path / "clip.mp4", count=2)
    video, mask = pair(outpaint(source, size="720x1280", anchor=anchor, to=tmp_path / "control"))
    assert video.shape == (1, 1280, 720, 3)
    inside = np.zeros((1280, 720), bool)
    inside[top : top + 415] = True
    assert ((mask[0, ..., 0] == 0) == inside).all()
    assert (abs(video[:, ~inside].astype(int) - 127) <= 1).all()
    image = Image.fromarray(frames_of(source)[0])
    wanted = np.asarray(image.resize((720, 415), Image.Resampling.LANCZOS))
    assert psnr(video[0, top : top + 415], wanted) > 48


def test_a_video_that_fits_into_the_canvas_keeps_its_pixels(tmp_path: Path) -> None:
    source = film(tmp_path / "clip.mp4", 300, 200, 5)
    video, mask = pair(outpaint(source, size="832*480", anchor="left", to=tmp_path / "control"))
    assert (mask[:, 140:340, :300] == 0).all()
    assert int((mask[0, ..., 0] == 0).sum()) == 300 * 200
    assert psnr(video[:, 140:340, :300], frames_of(source)) > 48


def test_a_box_is_replaced_to_the_pixel(tmp_path: Path) -> None:
    source = film(tmp_path / "clip.mp4", count=5)
    video, mask = pair(inpaint(source, box=(101, 33, 250, 200), to=tmp_path / "control"))
    inside = np.zeros((480, 832), bool)
    inside[33:200, 101:250] = True
    assert ((mask[..., 0] == 255) == inside).all()
    assert (abs(video[:, inside].astype(int) - 127) <= 1).all()
    assert psnr(video[:, ~inside], frames_of(source)[:, ~inside]) > 48


def test_a_box_moves_with_the_crop_of_the_video(tmp_path: Path) -> None:
    # 960x480 becomes 832x480 without 64 columns on each side.
    source = film(tmp_path / "clip.mp4", 960, 480, 1)
    _, mask = pair(inpaint(source, box=(64, 0, 164, 50), to=tmp_path / "control"))
    assert (mask[0, :50, :100] == 255).all()
    assert int((mask[0, ..., 0] == 255).sum()) == 100 * 50


def test_an_image_is_a_mask_for_all_frames(tmp_path: Path) -> None:
    source = film(tmp_path / "clip.mp4", count=5)
    painted = clips.disc(np.zeros((480, 832, 3), np.uint8), 400, 200, 90, (255, 255, 255))
    Image.fromarray(painted).convert("L").save(tmp_path / "mask.png")
    _, mask = pair(inpaint(source, mask=tmp_path / "mask.png", to=tmp_path / "control"))
    assert (mask == painted).all()


def test_only_the_painted_part_of_a_transparent_mask_is_replaced(tmp_path: Path) -> None:
    source = film(tmp_path / "clip.mp4", count=5)
    painted = Image.new("RGBA", (832, 480), (0, 0, 0, 0))
    painted.paste("white", (100, 50, 200, 150))
    painted.save(tmp_path / "mask.png")
    _, mask = pair(inpaint(source, mask=tmp_path / "mask.png", to=tmp_path / "control"))
    assert (mask[0, 50:150, 100:200] == 255).all()
    assert int((mask[0, ..., 0] == 255).sum()) == 100 * 100


def test_a_video_is_a_mask_for_each_frame(tmp_path: Path) -> None:
    source = film(tmp_path / "clip.mp4", count=5)
    moving = [np.zeros((480, 832, 3), np.uint8) for _ in range(3)]
    for number, picture in enumerate(moving):
        picture[:, number * 160 : number * 160 + 96] = 255
    clips.write(tmp_path / "mask.mp4", moving, 1)
    _, mask = pair(inpaint(source, mask=tmp_path / "mask.mp4", to=tmp_path / "control"))
    starts = [int(np.flatnonzero(frame[240, :, 0])[0]) for frame in mask]
    # The last mask stays for the rest of the video.
    assert np.abs(np.array(starts) - [0, 160, 320, 320, 320]).max() <= 2


# --- other material --------------------------------------------------------------------------------


def test_another_rate_becomes_16_frames_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # A second in 32 frames that get lighter.
    steps = [np.full((240, 416, 3), 7 * number, np.uint8) for number in range(32)]
    source = clips.write(tmp_path / "clip.mp4", steps, 1, fps=32)
    video, _ = pair(extend(source, frames=17, overlap=16, to=tmp_path / "control"))
    assert "32 frames become 16 frames at 16 a second" in caplog.text
    assert "416x240 is scaled and cropped to 832x480" in caplog.text
    assert [round(float(frame.mean()) / 14) for frame in video[:16]] == list(range(16))


def test_a_slow_film_repeats_its_frames(tmp_path: Path) -> None:
    steps = [np.full((240, 416, 3), 20 + 50 * number, np.uint8) for number in range(4)]
    source = clips.write(tmp_path / "clip.mp4", steps, 1, fps=8)
    video, _ = pair(inpaint(source, box=(0, 0, 8, 8), to=tmp_path / "control"))
    assert [round((float(frame[-9:].mean()) - 20) / 50) for frame in video] == [0, 0, 1, 1, 2]


def test_frames_behind_the_last_group_of_four_are_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = inpaint(film(tmp_path / "clip.mp4", count=8), box=(0, 0, 9, 9), to=tmp_path / "control")
    assert made["frame_num"] == 5
    assert "the first 5 frames are used and the last 3 are cut off" in caplog.text


def test_frames_behind_the_81st_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    assert len(list(fitting.groups("long.mp4", [picture] * 200))) == 81
    assert "long.mp4: the first 81 frames are used and the last 119 are cut off" in caplog.text


def test_the_size_follows_from_the_source(tmp_path: Path) -> None:
    for (width, height), size in {
        (640, 360): "832*480",
        (360, 640): "480*832",
        (1920, 1080): "1280*720",
        (300, 300): "832*480",
    }.items():
        Image.new("RGB", (width, height), "teal").save(tmp_path / "a.png")
        assert between(tmp_path / "a.png", tmp_path / "a.png", frames=5, to=tmp_path)["size"] == size
    made = between(tmp_path / "a.png", tmp_path / "a.png", frames=5, size="480 x 832", to=tmp_path)
    assert made["size"] == "480*832"


def test_a_picture_with_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    levels = np.full((480, 832), 40 * 256, np.uint16)
    levels[:, 416:] = 200 * 256
    Image.fromarray(levels).save(tmp_path / "a.png")
    video, _ = pair(between(tmp_path / "a.png", tmp_path / "a.png", frames=5, to=tmp_path / "control"))
    assert abs(int(video[0, 240, 100, 0]) - 40) <= 2
    assert abs(int(video[0, 240, 700, 0]) - 200) <= 2
    _, mask = pair(inpaint(tmp_path / "a.png", mask=tmp_path / "a.png", to=tmp_path / "control"))
    assert not mask[0, :, :400].any()
    assert (mask[0, :, 420:] == 255).all()


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (832, 480), "black")
    image.paste("white", (0, 0, 200, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn clockwise.
    image.save(tmp_path / "a.jpg", exif=exif)
    video, _ = pair(between(tmp_path / "a.jpg", tmp_path / "a.jpg", frames=5, to=tmp_path / "control"))
    assert video.shape[1:3] == (832, 480)
    assert video[0, 100, 430].mean() > 240


def test_a_video_with_oblong_pixels_keeps_its_proportions(tmp_path: Path) -> None:
    ball = clips.disc(np.zeros((480, 624, 3), np.uint8), 312, 240, 100, (255, 255, 255))
    oblong = np.asarray(Image.fromarray(ball).resize((468, 480)))
    with av.open(tmp_path / "hdv.mp4", "w") as container:
        stream: Any = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 468, 480, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(oblong, format="rgb24")))
        container.mux(stream.encode(None))
    facts = inspect(tmp_path / "hdv.mp4")
    assert (facts.width, facts.height) == (624, 480)
    video, mask = pair(outpaint(tmp_path / "hdv.mp4", size="832*480", to=tmp_path / "control"))
    assert int((mask[0, 0, :, 0] == 0).sum()) == 624
    lit = video[0, ..., 0] > 200
    assert abs(int(lit[240].sum()) - int(lit[:, 416].sum())) <= 4


def test_more_than_81_frames_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert fitting.check_frames(85) == 85
    assert "samples 85 frames down to 81" in caplog.text


# --- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda clip, to: extend(clip, frames=80, to=to), "frames is not of the form 4n+1: got 80"),
        (lambda clip, to: extend(clip, frames=True, to=to), "frames is not of the form 4n+1"),
        (lambda clip, to: extend(clip, frames=17, overlap=17, to=to), "overlap is not between 1 and 16"),
        (lambda clip, to: extend(clip, size="640*360", to=to), "size is not a size of VACE"),
        (lambda clip, to: outpaint(clip, size="720*1280", anchor="north", to=to), "give one of center, top"),
        (lambda clip, to: outpaint(clip, size="832*480", to=to), "is filled by the video already"),
        (lambda clip, to: inpaint(clip, to=to), "give one of box and mask"),
        (lambda clip, to: inpaint(clip, box=(0, 0, 9, 9), mask=clip, to=to), "give one of box and mask"),
        (lambda clip, to: inpaint(clip, box=(900, 0, 950, 9), to=to), "covers no pixel of the result"),
        (lambda clip, to: inpaint(clip, mask=clip.parent / "dark.png", to=to), "has no light area"),
        (lambda clip, to: inpaint(clip, mask=clip.parent / "dark.mp4", to=to), "has no light area"),
        (lambda clip, to: inpaint(clip, mask=clip.parent / "tall.png", to=to), "has other proportions"),
    ],
)
def test_a_mistake_is_named_before_anything_is_paid(tmp_path: Path, call: Any, words: str) -> None:
    source = film(tmp_path / "clip.mp4", count=1)
    dark = np.zeros((480, 832, 3), np.uint8)
    clips.write(tmp_path / "dark.mp4", [dark], 1)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    Image.new("L", (480, 832), "white").save(tmp_path / "tall.png")
    with pytest.raises(VaceInputError) as caught:
        call(source, tmp_path / "control")
    assert words in str(caught.value)
    assert "nothing is billed" in str(caught.value)
    assert not list(tmp_path.glob("control/*"))


def test_a_damaged_source_leaves_no_files(tmp_path: Path) -> None:
    clip = clips.defective(tmp_path / "clip.mp4", "truncated", 1, (208, 120, 33))
    with pytest.raises(VideoUnreadable):
        inpaint(clip.path, box=(0, 0, 9, 9), to=tmp_path / "control")
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(VideoUnreadable):
        between(clip.path, clip.path, to=tmp_path / "control")
    assert not list(tmp_path.glob("control/*"))
