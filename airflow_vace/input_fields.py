"""The twelve inputs of prunaai/vace-14b as data: types, defaults and reported bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MODEL = "prunaai/vace-14b"

Kind = Literal["str", "int", "number", "url", "urls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputField:
    """One input of the model.

    Third parties report `values` and bounds, so other values cause a warning instead of an error.

    :param name: name in the API
    :param kind: type in the API: text, integer, number, URL, list of URLs
    :param help: one sentence for forms and documentation
    :param default: value of the API for an absent input
    :param required: True if the API refuses a create without this input
    :param values: reported values
    :param low: reported minimum
    :param high: reported maximum
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    required: bool = False
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


SPEED_MODES = {
    "lightly": "Lightly Juiced 🍊 (more consistent)",
    "juiced": "Juiced 🔥 (more speed)",
    "extra": "Extra Juiced 🚀 (even more speed)",
}

# Names, types and defaults are from the model's API page, bounds from reports of third parties.
_FIELDS = (
    InputField(name="prompt", kind="str", required=True, help="What the video shows."),
    InputField(name="src_video", kind="url", help="The video to edit, or to be guided by."),
    InputField(name="src_mask", kind="url", help="White is generated, black is kept; with src_video."),
    InputField(name="src_ref_images", kind="urls", help="One to three images of the subjects to show."),
    InputField(
        name="size",
        kind="str",
        default="832*480",
        values=("832*480", "480*832", "1280*720", "720*1280"),
        help="Width*height in pixels.",
    ),
    InputField(
        name="frame_num",
        kind="int",
        default=81,
        low=1,
        help="Frames at 16 a second, 4n+1; with src_video the source decides.",
    ),
    InputField(
        name="speed_mode",
        kind="str",
        default=SPEED_MODES["lightly"],
        values=tuple(SPEED_MODES.values()),
        help="Faster or more consistent; the short names are lightly, juiced and extra.",
    ),
    InputField(name="sample_steps", kind="int", default=50, low=1, high=100, help="Denoising steps."),
    InputField(
        name="sample_solver",
        kind="str",
        default="unipc",
        values=("unipc", "dpm++"),
        help="The solver of the sampler.",
    ),
    InputField(name="sample_shift", kind="int", default=16, help="The sampler's shift."),
    InputField(
        name="sample_guide_scale",
        kind="number",
        default=5,
        low=0,
        high=20,
        help="How closely to follow the prompt.",
    ),
    InputField(name="seed", kind="int", default=-1, help="Same seed, same video; negative: random."),
)
FIELDS: Mapping[str, InputField] = {field.name: field for field in _FIELDS}
