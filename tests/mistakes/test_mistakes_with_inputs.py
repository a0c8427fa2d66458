"""Mistakes in the input of a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.films import MP4
from support.mistakes import Mistake, Scene, row

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING = "{{ ti.xcom_pull(task_ids='write') }}"
IMAGES = [f"https://a.example/{number}.png" for number in range(4)]


def _input(**values: Any) -> Callable[[Scene], object]:
    """Return a mistake in an input beside a good prompt."""
    return _whole({"prompt": "a fox", **values})


def _whole(given: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.submit(input=given)


def _task(**kwargs: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.submit(**kwargs)


def _file(content: bytes | None, *, field: str = "src_video") -> Callable[[Scene], object]:
    """Return a mistake in a local file; None makes a directory."""

    def make(scene: Scene) -> object:
        scene.connect({"input_roots": [str(scene.folder)]})
        path = scene.folder / "a.mp4"
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        return scene.submit(input={"prompt": "a fox", field: str(path)})

    return make


def _missing(scene: Scene) -> object:
    scene.connect({"input_roots": [str(scene.folder)]})
    return scene.submit(input={"prompt": "a fox", "src_video": f"{scene.folder}/b.mp4"})


def _unlisted(scene: Scene) -> object:
    (scene.folder / "a.mp4").write_bytes(MP4)
    return scene.submit(input={"prompt": "a fox", "src_video": f"{scene.folder}/a.mp4"})


def _too_large(backend: str) -> Callable[[Scene], object]:
    def make(scene: Scene) -> object:
        scene.connect({"input_roots": [str(scene.folder)], "backend": backend})
        with (scene.folder / "a.mp4").open("wb") as file:
            file.write(MP4)
            file.truncate(101_000_000)
        return scene.submit(input={"prompt": "a fox", "src_video": f"{scene.folder}/a.mp4"})

    return make


FREE = "Nothing was sent, nothing is billed"
EMPTY = ("'prompt'", "describe the content of the video", "xcom_pull", "task_ids", FREE)
NO_DICT = ("parameter input", "no dict", "input={'prompt':", FREE)
FILE = ("src_video", "/a.mp4", "Nothing is billed")
NO_URL = ("'src_video'", "is not a URL", "give an http(s) URL", "/data/clip.mp4", FREE)
REFUSED = ("422", "correct the values that it names", "Nothing is billed")
DOUBT: dict[str, Any] = {"outcome": "warns", "posts": 1, "billed": 1}
MISTAKES = (
    row("an empty prompt", _whole({"prompt": ""}), "got ''", *EMPTY),
    row("a blank prompt", _whole({"prompt": "  "}), "is missing", *EMPTY),
    row("no prompt", _whole({"seed": 3}), "is missing", *EMPTY),
    row("None as prompt", _whole({"prompt": None}), "got None", *EMPTY),
    row("the text None as prompt", _whole({"prompt": "None"}), "'None'", *EMPTY),
    row("a prompt from a task without a value", _whole({"prompt": NOTHING}), "got None", *EMPTY),
    row(
        "a text around a value from a task without a value",
        _whole({"prompt": f"a film of {NOTHING}"}),
        *("'a film of None'", "rendered to nothing", "check the task_ids", "xcom_pull"),
        **DOUBT,
    ),
    row(
        "a list as prompt",
        _whole({"prompt": ["a", "b"]}),
        "'prompt'",
        "['a', 'b']",
        "expand",
        "VaceBatchOperator",
    ),
    row(
        "a dict as prompt", _whole({"prompt": {"text": "a fox"}}), "{'text': 'a fox'}", "give one text", FREE
    ),
    row("True as prompt", _whole({"prompt": True}), "'prompt'", "True", "give one text", FREE),
    row(
        "a very long prompt",
        _whole({"prompt": "fox " * 2000}),
        "8000 characters",
        "512 tokens",
        "shorten",
        **DOUBT,
    ),
    row("a text as input", _whole("a fox"), "'a fox'", *NO_DICT),
    row("None as input", _whole(None), "input is None", "xcom_pull", *NO_DICT),
    row("an input from a task without a value", _whole(NOTHING), "input is None", "xcom_pull", *NO_DICT),
    row("a list as input", _whole([{"prompt": "a fox"}]), "expand(input=...)", "VaceBatchOperator", *NO_DICT),
    row("a misspelt name", _whole({"promt": "a fox"}), "'promt'", "'a fox'", "did you mean 'prompt'?", FREE),
    row(
        "the name of another model",
        _input(num_frames=81),
        "'num_frames'",
        "81",
        "has the inputs",
        "frame_num",
        FREE,
    ),
    row(
        "a text as seed", _input(seed="lucky"), "'seed'", "'lucky'", "give an integer", "leave seed out", FREE
    ),
    row("a fraction as seed", _input(seed=1.5), "'seed'", "1.5", "give an integer", FREE),
    row("True as seed", _input(seed=True), "'seed'", "True", "give an integer", FREE),
    row("NaN as seed", _input(seed=float("nan")), "'seed'", "nan", "finite number", FREE),
    row(
        "frames in words",
        _input(frame_num="81 frames"),
        "'frame_num'",
        "'81 frames'",
        "give an integer",
        FREE,
    ),
    row("a list as frames", _input(frame_num=[81]), "'frame_num'", "[81]", "give an integer", FREE),
    row(
        "0 frames", _input(frame_num=0), "frame_num", "out of bounds", "Sent: frame_num=0", *REFUSED, posts=1
    ),
    row("82 frames", _input(frame_num=82), "frame_num=82", "4n+1", "81, 85", **DOUBT),
    row("500 steps", _input(sample_steps=500), "sample_steps", "Sent: sample_steps=500", *REFUSED, posts=1),
    row("a list as size", _input(size=[1280, 720]), "'size'", "[1280, 720]", "'1280*720'", FREE),
    row("size 720p", _input(size="720p"), "size", "1280*720", "Sent: size='720p'", *REFUSED, posts=1),
    row("a number as speed", _input(speed_mode=2), "'speed_mode'", "2", "give one of 'Lightly", FREE),
    row(
        "an unknown speed", _input(speed_mode="fast"), "Sent: speed_mode='fast'", "Juiced", *REFUSED, posts=1
    ),
    row(
        "a scale in words",
        _input(sample_guide_scale="high"),
        "'sample_guide_scale'",
        "'high'",
        "give a number",
        FREE,
    ),
    row("an object", _input(seed=object()), "'seed'", "no form in JSON", "give text, a number", FREE),
    row("words as URL", _input(src_video="my video"), "'my video'", *NO_URL),
    row("a relative path", _input(src_video="clips/a.mp4"), "'clips/a.mp4'", *NO_URL),
    row("a URL without host", _input(src_video="https:///a.mp4"), "'https:///a.mp4'", *NO_URL),
    row(
        "a blank in a URL",
        _input(src_video="https://a.example/b c.mp4"),
        "'src_video'",
        "b c.mp4",
        "write %20",
        FREE,
    ),
    row(
        "a dict as URL",
        _input(src_video={"url": "https://a.example"}),
        "'src_video'",
        "{'url'",
        "give a URL",
        FREE,
    ),
    row("a number as images", _input(src_ref_images=5), "'src_ref_images'", "5", "a list of URLs", FREE),
    row(
        "a name as image",
        _input(src_ref_images="cat.png"),
        "'src_ref_images'",
        "'cat.png'",
        "http(s) URL",
        FREE,
    ),
    row("four images", _input(src_ref_images=IMAGES), "src_ref_images has 4 images", "one to 3", **DOUBT),
    row(
        "a mask without a video",
        _input(src_mask="https://a.example/m.mp4"),
        "'src_mask'",
        "give src_video too",
        FREE,
    ),
    row("a missing file", _missing, "'src_video'", "/b.mp4", "does not exist", "exists on the worker"),
    row("a directory", _file(None), "is a directory", "name a file", *FILE),
    row("an empty file", _file(b""), "is empty", "file with content", *FILE),
    row("a text file as video", _file(b"hello, this is text"), "is no video", "contains a video", *FILE),
    row(
        "a video as image",
        _file(MP4, field="src_ref_images"),
        "src_ref_images",
        "is no image",
        "contains an image",
    ),
    row("a directory that is not allowed", _unlisted, "list the directories", "'input_roots'", *FILE),
    row(
        "100 MB for a gateway",
        _too_large("gateway"),
        "takes no uploads",
        "256 kB",
        "give an http(s) URL",
        *FILE,
    ),
    row("101 MB for Replicate", _too_large("replicate"), "100 MB limit", "give an http(s) URL", *FILE),
    row(
        "a store without its provider",
        _input(src_video="gs://b/a.mp4"),
        "src_video",
        "'gs://b/a.mp4'",
        "providers-google",
    ),
    row("an unknown scheme", _input(src_video="nowhere://b/a.mp4"), "src_video", "nowhere://b/", "install"),
    row(
        "a store without its connection",
        _input(src_video="memory://no@b/a.mp4"),
        "src_video",
        "`no`",
        "add the connection",
    ),
    row(
        "version v1",
        _task(version="v1"),
        "'v1' is not the id of a version",
        "64 hex digits",
        *REFUSED,
        posts=1,
    ),
    row("a version with a blank", _task(version="version 1"), "'version 1'", "leave version out", FREE),
    row("a model without owner", _task(model="vace-14b"), "'vace-14b'", "'owner/name'", FREE),
    row("an unknown model", _task(model="prunaai/vace-41b"), "vace-41b", "check the model's name", posts=1),
    row(
        "two versions",
        _task(model="prunaai/vace-14b:abc", version="def"),
        "'version'",
        "'abc' and 'def'",
        "Name one",
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_in_the_input_is_explained(mistake: Mistake, explain: Any) -> None:
    explain(mistake)
