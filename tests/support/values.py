"""Values as DAGs bring them: an array, an enumeration, a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Array:
    """Stands for an array or a number of NumPy, which the package does not need."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        # Part of a test's id, which must be the same in each worker of pytest.
        return f"Array({self.value!r})"

    def __iter__(self) -> Any:
        raise TypeError("iteration over a 0-d array")

    def tolist(self) -> Any:
        return self.value


class Size(Enum):
    WIDE = "1280x720"


@dataclass
class Clip:
    prompt: str
    seed: int | None = None
