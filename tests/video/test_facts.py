"""Facts about videos: size, length, codec, and shares of black, frozen and plain frames."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from airflow_vace.exceptions import VaceError
from airflow_vace.video import VideoExtraMissing, VideoUnreadable, inspect, problems
from support import clips

if TYPE_CHECKING:
    from pathlib import Path

SMALL = (96, 64, 17)


def moving(count: int = 17, width: int = 96, height: int = 64) -> list[Any]:
    return list(clips.pan(np.random.default_rng(1), width, height, count))


def test_the_facts_of_a_moving_clip(tmp_path: Path) -> None:
    facts = inspect(clips.write(tmp_path / "clip.mp4", moving()))
    assert (facts.width, facts.height, facts.frames, facts.declared_frames) == (96, 64, 17, 17)
    assert (facts.fps, facts.codec, facts.has_audio) == (16.0, "h264", False)
    assert facts.seconds == pytest.approx(17 / 16, abs=0.001)
    assert 0.2 < facts.brightness < 0.8
    assert (facts.black_share, facts.single_colour_share, facts.longest_freeze) == (0, 0, 0)
    assert (facts.damaged_frames, facts.decode_error) == (0, None)


def test_facts_become_json(tmp_path: Path) -> None:
    facts = inspect(clips.write(tmp_path / "clip.mp4", moving()))
    assert json.loads(json.dumps(facts.as_json()))["codec"] == "h264"
    assert facts.as_json().keys() >= {"width", "frames", "longest_freeze", "has_audio"}


def test_shares_count_frames(tmp_path: Path) -> None:
    pictures = moving(16)
    black, red = pictures[0] * 0, pictures[0] * 0 + np.array([200, 30, 30], np.uint8)
    facts = inspect(clips.write(tmp_path / "clip.mp4", [*pictures[:8], *[black] * 4, *[red] * 4], 1))
    assert facts.black_share == 0.25
    assert facts.single_colour_share == 0.25


def test_the_longest_freeze_is_in_seconds(tmp_path: Path) -> None:
    pictures = moving(20)
    pictures[4:12] = [pictures[4]] * 8
    facts = inspect(clips.write(tmp_path / "clip.mp4", pictures, 1))
    assert facts.longest_freeze == 0.5
    assert facts.frozen_share == pytest.approx(7 / 20)


def test_a_turned_video_has_the_size_that_players_show(tmp_path: Path) -> None:
    facts = inspect(clips.turned(clips.write(tmp_path / "clip.mp4", moving())))
    assert (facts.width, facts.height) == (64, 96)


def test_sound_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound: Any = container.add_stream("aac", rate=48000)
        for picture in moving():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))))
        container.mux(stream.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        tone.sample_rate, tone.pts, tone.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    facts = inspect(path)
    assert facts.has_audio
    assert facts.frames == 17


@pytest.mark.parametrize("kind", ["zero_bytes", "error_page", "without_index", "overwritten"])
def test_an_unreadable_file_raises_one_clear_error(tmp_path: Path, kind: str) -> None:
    clip = clips.defective(tmp_path / "clip.mp4", kind, 1, SMALL)
    with pytest.raises(VideoUnreadable, match=r"The video .*clip\.mp4 cannot be decoded: ") as caught:
        inspect(clip.path)
    assert isinstance(caught.value, VaceError)
    assert caught.value.path == str(clip.path)
    assert "[Errno" not in caught.value.reason


def test_a_missing_file_and_a_directory_raise_the_same_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(VideoUnreadable, match="directory"):
            inspect(path)


def test_a_file_with_sound_only_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("pcm_s16le", rate=8000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        tone.sample_rate = 8000
        container.mux(sound.encode(tone))
    with pytest.raises(VideoUnreadable, match="no video stream"):
        inspect(path)


def test_a_huge_header_does_not_fill_the_memory(tmp_path: Path) -> None:
    # A portable pixmap of 60000 x 60000: 10 GB, if a decoder believes the header.
    path = tmp_path / "clip.ppm"
    path.write_bytes(b"P6 60000 60000 255\n" + bytes(1000))
    with pytest.raises(VideoUnreadable):
        inspect(path)


def test_importing_the_room_loads_no_decoder_and_no_airflow() -> None:
    code = (
        "import sys, airflow_vace.video;"
        "print([n for n in ('av', 'PIL', 'numpy', 'airflow', 'requests') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_extra_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips.write(tmp_path / "clip.mp4", moving())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoExtraMissing, match=r"pip install 'airflow-provider-vace\[video\]'") as caught:
        inspect(path)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, VaceError)


def test_a_title_in_another_encoding_spoils_no_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with (
        av.open(str(clips.write(tmp_path / "plain.mp4", moving(), 1))) as source,
        av.open(path, "w") as result,
    ):
        result.metadata["title"] = "CafeBar"
        target = result.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = target
                result.mux(packet)
    # Older programs write Latin-1.
    path.write_bytes(path.read_bytes().replace(b"CafeBar", b"Caf\xe9Bar"))
    assert problems(inspect(path)) == []


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path: Path) -> None:
    facts = inspect(clips.shortened(clips.write(tmp_path / "clip.mp4", moving(), 1)))
    assert facts.frames < 17
    assert facts.declared_frames == facts.frames
    assert problems(facts) == []
