"""The emulated vendor: predictions, their course in time, and their bill."""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_vace.inputs import FIELDS, SPEED_MODES, InputField

DEFAULT_PORT = 8642
DEFAULT_KEY = "vace-emulator-key"

FRAMES_PER_SECOND = 16
# Durations of 81 frames at 832*480; a run scales steps and decoding by size and frames.
_LOAD_SECONDS = 4.0
_SECONDS_PER_STEP = 1.57
_DECODE_SECONDS = 6.0
# A boot varies, so a client must not rely on a fixed delay.
_COLD_BOOT_SECONDS = (20.0, 60.0)
_WARM_BOOT_SECONDS = (0.5, 2.0)
_SPEED = dict(zip(SPEED_MODES.values(), (1.0, 0.6, 0.4), strict=True))
# The model's limit is not published; a laptop can draw this many frames.
_MAX_FRAMES = 1001
_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz0123456789"


@dataclass(kw_only=True)
class Timeline:
    """The schedule of a prediction; status and logs follow from the schedule and the clock.

    :param created: Unix time in seconds, as all times here
    :param boot: seconds from the create to the start
    :param load: seconds for loading the weights
    :param step: seconds for one of `steps` sampling steps
    :param decode: seconds from the last step to the end
    """

    created: float
    boot: float
    load: float
    step: float
    steps: int
    decode: float

    @property
    def started(self) -> float:
        """The time of the start."""
        return self.created + self.boot

    @property
    def ended(self) -> float:
        """The time of the end, if nobody cancels."""
        return self.started + self.load + self.step * self.steps + self.decode

    def logs_at(self, now: float) -> str:
        """Return the logs up to now: progress bars for load, steps and decoding."""
        if now < self.started:
            return ""
        passed = now - self.started
        lines = [_bar("Loading weights", passed, self.load / 5, 5)]
        passed -= self.load
        if passed >= 0:
            lines.append(_bar("", passed, self.step, self.steps))
            passed -= self.step * self.steps
        if passed >= 0:
            lines.append(_bar("Decoding", passed, self.decode / 3, 3))
        return "\n".join(lines)


def _bar(label: str, passed: float, unit: float, total: int) -> str:
    """Return a progress bar in tqdm's form: redraws of a line, separated by carriage returns."""
    done = min(int(passed / unit), total) if unit else total
    seen = []
    for step in sorted({0, done // 2, done}):
        percent = step * 100 // total
        blocks = "█" * (percent // 10)
        left = f"{_clock((total - step) * unit)}, {unit:5.2f}s/it" if step else "?, ?it/s"
        prefix = f"{label}: " if label else ""
        # tqdm pads each number, and shows "?" for the rate before the first step.
        seen.append(f"{prefix}{percent:3d}%|{blocks:<10}| {step}/{total} [{_clock(step * unit)}<{left}]")
    return "\r".join(seen)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


@dataclass(kw_only=True)
class Run:
    """One accepted prediction.

    :param input: the inputs as sent
    :param outcome: members of the response at the end that a fault sets, such as `status`
    :param cancel_after: seconds from the create to the server's own deadline
    :param canceled: Unix time of a cancel request
    """

    id: str
    model: str
    version: str | None
    input: dict[str, Any]
    timeline: Timeline
    outcome: dict[str, Any] = field(default_factory=dict)
    cancel_after: float | None = None
    canceled: float | None = None

    def status_at(self, now: float) -> str:
        """Return the status at a Unix time."""
        stop = self._stopped_at()
        end = self.ended
        if stop is not None and stop <= min(now, end):
            # A deadline before the start aborts, so nothing is charged; any other stop cancels.
            return "aborted" if stop < self.timeline.started and self.canceled is None else "canceled"
        if now < self.timeline.started:
            return "starting"
        return "processing" if now < end else str(self.outcome.get("status", "succeeded"))

    def finished_at(self, now: float) -> float | None:
        """Return the Unix time of the end, None if the run goes on at `now`."""
        if self.status_at(now) in ("starting", "processing"):
            return None
        stop = self._stopped_at()
        return self.ended if stop is None else min(stop, self.ended)

    @property
    def ended(self) -> float:
        """The scheduled Unix time of the end."""
        return self.timeline.ended

    def _stopped_at(self) -> float | None:
        deadline = None if self.cancel_after is None else self.timeline.created + self.cancel_after
        stops = [stop for stop in (self.canceled, deadline) if stop is not None]
        return min(stops) if stops else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, _, height = str(self.input.get("size", FIELDS["size"].default)).partition("*")
        return int(width), int(height)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return int(self.input.get("frame_num", FIELDS["frame_num"].default))

    @property
    def seed(self) -> int:
        """The requested seed, or a random number."""
        # A random seed follows from the id, so a test with a seeded emulator is repeatable.
        seed = int(self.input.get("seed", -1))
        return seed if seed >= 0 else int(hashlib.sha256(self.id.encode()).hexdigest()[:8], 16)


class World:
    """All predictions of an emulator, without a clock: callers pass `now`.

    :param seed: the same seed gives the same ids and boot times
    :param time_scale: durations as a fraction of real ones
    :param retention: seconds for which files live after the end
    :param runs: predictions of an earlier process to continue
    """

    def __init__(
        self, *, seed: int, time_scale: float, retention: float, runs: dict[str, Run] | None = None
    ) -> None:
        self.time_scale = time_scale
        self.retention = retention
        self.runs = runs or {}
        # A restarted emulator must not repeat earlier ids, so the seed depends on the number of runs.
        self._random = random.Random(f"{seed}+{len(runs)}" if runs else seed)  # noqa: S311 - repeatable
        self._lock = threading.Lock()

    def create(  # noqa: PLR0913 - the members of a create
        self,
        values: dict[str, Any],
        *,
        model: str,
        version: str | None,
        now: float,
        cancel_after: float | None = None,
        outcome: dict[str, Any] | None = None,
    ) -> Run:
        """Accept and bill a prediction."""
        # Requests and tests call this from different threads.
        with self._lock:
            # A vendor loads the model for the first prediction, so only that one boots slowly.
            boot = self._random.uniform(*(_WARM_BOOT_SECONDS if self.runs else _COLD_BOOT_SECONDS))
            identifier = "".join(self._random.choices(_ID_LETTERS, k=26))
            run = Run(
                id=identifier,
                model=model,
                version=version,
                input=values,
                timeline=self._timeline(values, boot, now),
                outcome=outcome or {},
                cancel_after=cancel_after,
            )
            self.runs[identifier] = run
            return run

    def _timeline(self, values: dict[str, Any], boot: float, now: float) -> Timeline:
        def value_of(name: str) -> Any:
            return values.get(name, FIELDS[name].default)

        width, _, height = str(value_of("size")).partition("*")
        work = int(width) * int(height) / (832 * 480) * int(value_of("frame_num")) / 81
        step = _SECONDS_PER_STEP * work * _SPEED.get(str(value_of("speed_mode")), 1.0)
        scale = self.time_scale
        return Timeline(
            created=now,
            boot=boot * scale,
            load=_LOAD_SECONDS * scale,
            step=step * scale,
            steps=int(value_of("sample_steps")),
            decode=_DECODE_SECONDS * work * scale,
        )

    def is_gone(self, run: Run, now: float) -> bool:
        """Return True if files, logs and input of the run are deleted."""
        finished = run.finished_at(now)
        return finished is not None and now - finished >= self.retention

    def bill(self, now: float) -> dict[str, Any]:
        """Return `{"predictions": [...], "charged": count}` for all accepted predictions."""
        predictions = []
        for run in list(self.runs.values()):
            status = run.status_at(now)
            predictions.append(
                {
                    "id": run.id,
                    "status": status,
                    "charged": status != "aborted",
                    "created_at": iso(run.timeline.created),
                }
            )
        return {"predictions": predictions, "charged": sum(p["charged"] for p in predictions)}


def iso(moment: float, digits: int = 6) -> str:
    """Return an ISO 8601 time in UTC.

    :param moment: Unix time in seconds
    :param digits: number of fractional digits, 0 to 9
    """
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000"
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction[:digits]}Z" if digits else f"{whole}Z"


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "url": (str,),
    "int": (int,),
    "number": (int, float),
    "urls": (list,),
}


def _are_urls(value: Any) -> bool:
    urls = value if isinstance(value, list) else [value]
    return all(isinstance(url, str) and url.startswith(("http://", "https://", "data:")) for url in urls)


def _is_outside(known: InputField, value: Any) -> bool:
    too_low = known.low is not None and value < known.low
    high = _MAX_FRAMES if known.name == "frame_num" else known.high
    return too_low or (high is not None and value > high)


def invalid_fields(values: Any) -> list[dict[str, str]]:
    """Return the problems of an input, in the form of the API's member `invalid_fields`.

    Nothing is normalised: the model does not accept `1280x720` for `1280*720` either.
    """
    if not isinstance(values, dict):
        return [{"type": "invalid_type", "field": "input", "description": "Expected an object"}]
    problems = []
    for name, value in values.items():
        known = FIELDS.get(name)
        problem = None
        if known is None:
            problem = "Unexpected field"
        elif isinstance(value, bool) or not isinstance(value, _TYPES[known.kind]):
            problem = f"Expected {known.kind}, given {type(value).__name__}"
        elif known.name in ("size", "speed_mode", "sample_solver") and value not in known.values:
            problem = f"Must be one of {', '.join(known.values)}"
        elif known.kind in ("url", "urls") and not _are_urls(value):
            problem = "Must be a URL that can be fetched"
        elif _is_outside(known, value):
            problem = "Is out of bounds"
        if problem:
            problems.append({"type": "invalid", "field": f"input.{name}", "description": problem})
    if not values.get("prompt"):
        problems.append({"type": "required", "field": "input.prompt", "description": "prompt is required"})
    return problems
