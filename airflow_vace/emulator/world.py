"""The emulated vendor: predictions, their course in time, and their bill."""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_vace.emulator.checks import accepted_fields
from airflow_vace.inputs import FIELDS, SPEED_MODES

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
    """Return the redraws of a progress bar in tqdm's form, each on a line, as in Replicate's logs."""
    done = min(int(passed / unit), total) if unit else total
    seen = []
    for step in sorted({0, done // 2, done}):
        percent = step * 100 // total
        blocks = "█" * (percent // 10)
        left = f"{_clock((total - step) * unit)}, {unit:5.2f}s/it" if step else "?, ?it/s"
        prefix = f"{label}: " if label else ""
        # tqdm pads each number, and shows "?" for the rate before the first step.
        seen.append(f"{prefix}{percent:3d}%|{blocks:<10}| {step}/{total} [{_clock(step * unit)}<{left}]")
    return "\n".join(seen)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


@dataclass(kw_only=True)
class Run:
    """One accepted prediction.

    :param input: the inputs as sent
    :param outcome: members of the response at the end that a fault sets, such as `status`
    :param cancel_after: seconds from the create to the server's own deadline
    :param canceled: Unix time of a cancel request
    :param webhook: `{"url", "events"}` to notify
    """

    id: str
    model: str
    version: str | None
    input: dict[str, Any]
    timeline: Timeline
    outcome: dict[str, Any] = field(default_factory=dict)
    cancel_after: float | None = None
    canceled: float | None = None
    webhook: dict[str, Any] | None = None

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
        width, _, height = str(_value_of(self.input, "size")).partition("*")
        return int(width), int(height)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return int(_value_of(self.input, "frame_num"))

    @property
    def seed(self) -> int:
        """The requested seed, or a random number."""
        # A random seed follows from the id, so a test with a seeded emulator is repeatable.
        seed = int(_value_of(self.input, "seed"))
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
        webhook: dict[str, Any] | None = None,
    ) -> Run:
        """Accept and bill a prediction; the parameters are those of :class:`Run`."""
        # Requests and tests call this from different threads.
        with self._lock:
            # A vendor loads the model for the first prediction, so only that one boots slowly.
            boot = self._random.uniform(*(_WARM_BOOT_SECONDS if self.runs else _COLD_BOOT_SECONDS))
            identifier = letters(self._random)
            run = Run(
                id=identifier,
                model=model,
                version=version,
                input=values,
                timeline=self._timeline(values, boot, now),
                outcome=outcome or {},
                cancel_after=cancel_after,
                webhook=webhook,
            )
            self.runs[identifier] = run
            return run

    def _timeline(self, values: dict[str, Any], boot: float, now: float) -> Timeline:
        width, _, height = str(_value_of(values, "size")).partition("*")
        work = int(width) * int(height) / (832 * 480) * int(_value_of(values, "frame_num")) / 81
        step = _SECONDS_PER_STEP * work * _SPEED.get(str(_value_of(values, "speed_mode")), 1.0)
        scale = self.time_scale
        return Timeline(
            # Clients send the shown time back as `created_after`, so no digit may be hidden from them.
            created=round(now, 6),
            boot=boot * scale,
            load=_LOAD_SECONDS * scale,
            step=step * scale,
            steps=int(_value_of(values, "sample_steps")),
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


def _value_of(values: dict[str, Any], name: str) -> Any:
    """Return an input if the model accepts the value, else the model's default."""
    # Another model may give the same name another meaning, such as `size: "large"`.
    return accepted_fields(values).get(name, FIELDS[name].default)


def letters(chance: random.Random) -> str:
    """Return a random id in the form of Replicate's."""
    return "".join(chance.choices(_ID_LETTERS, k=26))


def iso(moment: float, digits: int = 6) -> str:
    """Return an ISO 8601 time in UTC.

    :param moment: Unix time in seconds
    :param digits: number of fractional digits, 0 to 9
    """
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000"
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction[:digits]}Z" if digits else f"{whole}Z"
