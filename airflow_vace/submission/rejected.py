"""Rejected clips: successes whose saved videos have problems, and the seeds of their successors.

Pure, no I/O, no clock.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.core.pricing import money_text, read_amount
from airflow_vace.exceptions import VideoRejected
from airflow_vace.prediction import first_count
from airflow_vace.redaction import excerpt
from airflow_vace.storage.checks import problems_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow_vace.prediction import Prediction

# Seeds have 31 bits: https://replicate.com/prunaai/vace-14b/api/schema
SEED_COUNT = 2**31
# A record holds all rejected clips, and the records of 32 items share a value of the state store.
_MAX_PROBLEMS = 3
_MAX_PROBLEM_LENGTH = 160
_COST_MEMBERS = ("amount", "currency", "basis")


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A success that is billed and saved, but is no result.

    `uri` is the address of the first video with problems, and `problems` the first of its problems. `cost` is
    `{"amount", "currency", "basis"}` of this prediction alone, None without a price.
    """

    id: str
    seed: int | None = None
    uri: str | None = None
    problems: tuple[str, ...] = ()
    cost: dict[str, Any] | None = None

    @classmethod
    def of(cls, prediction: Prediction, seed: int | None, cost: Mapping[str, Any] | None) -> Self:
        """Return the entry of a prediction with saved files.

        :param seed: the submitted seed, None if unknown
        :param cost: JSON form of the cost, None without a price
        """
        bad = next((file for file in prediction.files if problems_of([file])), {})
        return cls(
            id=prediction.id,
            seed=first_count(seed, prediction.seed),
            uri=str(bad["uri"]) if "uri" in bad else None,
            problems=tuple(excerpt(each, _MAX_PROBLEM_LENGTH) for each in problems_of([bad])[:_MAX_PROBLEMS]),
            cost=None if cost is None else {name: cost.get(name) for name in _COST_MEMBERS},
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of :meth:`as_json`.

        :raises KeyError: (or another error of a wrong type) if `data` is no rejected clip
        """
        return cls(
            id=str(data["id"]),
            seed=first_count(data.get("seed")),
            uri=data.get("uri"),
            problems=tuple(map(str, data.get("problems") or ())),
            cost=data.get("cost") if isinstance(data.get("cost"), dict) else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return `{"id", "seed", "uri", "problems", "cost"}`, without `cost` if unknown."""
        members = {"id": self.id, "seed": self.seed, "uri": self.uri, "problems": list(self.problems)}
        return members if self.cost is None else {**members, "cost": self.cost}

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" (seed {self.seed})"
        return f"{self.uri or self.id}{seed}: {' '.join(self.problems)}"


def read_rejected(data: object) -> tuple[Rejected, ...]:
    """Return the rejected clips in a record, () in a record of an older version."""
    found = []
    for item in data if isinstance(data, list | tuple) else ():
        with suppress(KeyError, TypeError, AttributeError):
            found.append(Rejected.from_json(item))
    return tuple(found)


def next_seed(seed: int, generation: int, used: Collection[int | None] = ()) -> int:
    """Return the seed of another generation, equal in all processes and outside of `used`.

    A neighbouring seed may belong to a sibling task, so the seed is the digest of an author's seed and the
    generation.

    :param seed: the author's seed
    :param generation: 1 for the first successor
    """
    while True:
        digest = hashlib.sha256(f"{seed}+{generation}".encode()).digest()
        found = int.from_bytes(digest[:4]) % SEED_COUNT
        if found not in used:
            return found
        generation += 1


def rejection(
    prediction: Prediction, rejected: Sequence[Rejected], paid: str | None, advice: str
) -> VideoRejected:
    """Return the error of a task whose last clip has problems.

    :param prediction: the last success, with saved files
    :param rejected: all rejected clips, the last one included
    :param paid: what the task has paid, as text with the currency; None if unknown
    :param advice: the reason for no further clip, and the remedy, as sentences
    """
    clips = f"{len(rejected)} clips have" if len(rejected) > 1 else "The video has"
    billed = "Each is billed." if len(rejected) > 1 else prediction.bill
    cost = "" if paid is None else f" The task has paid {paid}."
    listed = "; ".join(str(clip).rstrip(".") for clip in rejected)
    return VideoRejected(
        f"{clips} problems, and all files stay: {listed}. {billed}{cost} {advice}",
        prediction=prediction,
        problems=problems_of(prediction.files),
        rejected=[clip.as_json() for clip in rejected],
    )


def paid_text(cost: Mapping[str, Any] | None) -> str | None:
    """Return the cost of all predictions of a task as text, such as "$0.80"; None if unknown."""
    known = cost or {}
    amount = read_amount(known.get("task") or known.get("amount"))
    return None if amount is None else money_text(amount, known.get("currency"))
