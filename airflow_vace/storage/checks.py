"""Checks of downloaded videos before the videos go to their place: measured facts, and problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.redaction import excerpt
from airflow_vace.video.facts import VideoFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_vace.prediction import Prediction
    from airflow_vace.video.problems import Expected

CheckMode = Literal["off", "warn", "fail", "regenerate"]
# A video with problems is no result in these modes.
STRICT_MODES = ("fail", "regenerate")
Rule = Callable[[VideoFacts, Path], str | None]

# PyAV, Pillow and numpy, by the names of their modules.
_PACKAGES = ("av", "PIL", "numpy")
# A decode pass takes minutes for such a film, and VACE's clips have a few megabytes.
_MAX_BYTES = 256 * 1024 * 1024
_MAX_PROBLEM_LENGTH = 300
_EMPTY = {"int": 0, "float": 0.0, "bool": False, "str": ""}
_ABSENT: Mapping[str, Any] = {field.name: _EMPTY.get(str(field.type)) for field in fields(VideoFacts)}


def missing_packages() -> list[str]:
    """Return the packages of the extra `video` that this Python does not have; nothing is imported."""
    return [name for name in _PACKAGES if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # an import hook refuses, or a broken module is loaded
        return False


class Checker:
    """Measures the downloaded videos of one prediction; no trouble of a check costs a video.

    :param prediction: a success
    :param values: the prediction's input, source of the expected size and number of frames
    :param mode: `off` measures nothing
    :param rule: the author's own check; gets the facts and the path of the downloaded file
    :param log: the task's log
    """

    def __init__(
        self, prediction: Prediction, values: Mapping[str, Any], mode: CheckMode, rule: Rule | None, log: Any
    ) -> None:
        self._id = prediction.id
        self._is_vace = (prediction.model or "").lower() == DEFAULT_MODEL
        self._values = values
        self._mode = mode
        self._rule = rule
        self._log = log

    def facts_of(self, part: Path, content_type: str, size: int) -> dict[str, Any] | None:
        """Return facts and `problems` of a video; None for other files, and without an answer.

        The facts of a video that cannot be decoded are the problem alone.

        :param part: the downloaded file
        :param size: in bytes
        """
        if self._mode == "off" or not content_type.startswith("video/"):
            return None
        if size > _MAX_BYTES:
            self._log.info("Prediction %s has a video of %.0f MB: not checked", self._id, size / 1e6)
            return None
        from airflow_vace.video.problems import check

        try:
            facts, problems = check(part, expected=self._expected())
        except Exception as error:  # noqa: BLE001 - a decoder may raise any error; the paid video matters more
            self._note_trouble("", error)
            return None
        if facts is not None and self._rule is not None:
            problems.extend(self._by_rule(facts, part))
        return {**(facts.as_json() if facts is not None else {}), "problems": problems}

    def _expected(self) -> Expected | None:
        from airflow_vace.video.problems import Expected

        return Expected.of(self._values) if self._is_vace else None

    def _by_rule(self, facts: VideoFacts, part: Path) -> Iterable[str]:
        rule: Any = self._rule
        try:
            found = rule(facts, part)
            if found is not None and not isinstance(found, str):
                raise TypeError(f"check has returned {excerpt(repr(found), 100)} in place of text or None")
        except Exception as error:  # noqa: BLE001 - a team's code may raise any error; the paid video matters
            self._note_trouble(" by check=", error)
            return ()
        return (excerpt(found, _MAX_PROBLEM_LENGTH),) if found else ()

    def _note_trouble(self, by: str, error: Exception) -> None:
        reason = excerpt(f"{type(error).__name__}: {error}", 300)
        self._log.warning(
            "The video of prediction %s is saved without a check%s, which raised %s", self._id, by, reason
        )


def problems_of(files: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the problems in the facts of saved files, or of manifests."""
    found: list[str] = []
    for file in files:
        facts = file.get("facts")
        problems = facts.get("problems") if isinstance(facts, dict) else None
        found.extend(str(problem) for problem in problems or () if isinstance(problems, list))
    return found


def packed(files: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return saved files in a short form for records: no zeros among the facts, no address of a poster."""
    short = ({**file, "poster": True} if "poster" in file else file for file in files)
    return [_with_facts(file, _nonempty) for file in short]


def unpacked(files: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return saved files with complete facts, the reverse of :func:`packed`."""
    whole = (
        {**file, "poster": poster_name(str(file.get("uri")))} if file.get("poster") is True else file
        for file in files
    )
    return [_with_facts(file, _complete) for file in whole]


def poster_name(name: str) -> str:
    """Return name or address of a video's poster: `fox.mp4.jpg`, so a saved `fox.jpg` stays as it is."""
    return f"{name}.jpg"


def _with_facts(
    file: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    facts = file.get("facts")
    return {**file, "facts": change(facts)} if isinstance(facts, dict) else dict(file)


def _nonempty(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in facts.items() if value}
    # Few videos differ in these two, and each byte counts 32 times in a record of a batch.
    if "declared_frames" in facts and facts["declared_frames"] != facts.get("frames"):
        return {**found, "declared_frames": facts["declared_frames"]}
    return {name: value for name, value in found.items() if name != "declared_frames"}


def _complete(facts: Mapping[str, Any]) -> dict[str, Any]:
    # A video that cannot be decoded has no facts but its problem.
    measured = {**_ABSENT, "declared_frames": facts["frames"]} if facts.get("frames") else {}
    return {**measured, "problems": [], **facts}
