"""Check defective and good clips, and print how many are refused, and the time for one.

`uv run python benchmarks/video_checks.py`. A fifth of the clips has 832x480 pixels and 81 frames, as VACE
makes them; the others have a quarter of this area, which makes drawing four times as fast.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from airflow_vace.video import check
from support import clips

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE, QUARTER = (832, 480, 81), (416, 240, 81)


def main() -> None:
    """Write and check the clips one after another, and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--defective", type=int, default=100)
    parser.add_argument("--good", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="vace-clips-") as folder:
        path = Path(folder, "clip.mp4")
        defects = _checked(
            clips.defective, clips.KINDS_OF_DEFECTS, options.defective, options.seed, path, seconds
        )
        good = _checked(clips.good, tuple(clips.GOOD), options.good, options.seed, path, seconds)
    missed, _ = _report("defective", defects)
    _, refused = _report("good", good)
    print(
        f"{len(seconds)} clips of 81 frames, 832x480: median {statistics.median(seconds):.3f} s of a core,"
        f" highest {max(seconds):.3f} s"
    )
    sys.exit(1 if missed or refused else 0)


def _checked(  # noqa: PLR0913, PLR0917 - called twice, right above
    write: Callable[[Path, str, int, tuple[int, int, int]], clips.Clip],
    kinds: tuple[str, ...],
    count: int,
    seed: int,
    path: Path,
    seconds: list[float],
) -> dict[str, list[list[str]]]:
    table: dict[str, list[list[str]]] = {kind: [] for kind in kinds}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        size = WHOLE if (number + number // len(kinds)) % 5 == 0 else QUARTER
        clip = write(path, kind, seed + number, size)
        started = time.process_time()
        facts, found = check(path, expected=clip.expected)
        if size is WHOLE and facts and facts.frames == WHOLE[2]:
            seconds.append(time.process_time() - started)
        table[kind].append(found)
        if bool(found) is (kind in clips.GOOD):
            print(f"WRONG: {kind}, seed {seed + number}, {size}: {found or 'passed'} {facts}")
    return table


def _report(title: str, table: dict[str, list[list[str]]]) -> tuple[int, int]:
    print(f"{title:<32}{'clips':>6}{'passed':>8}{'refused':>9}")
    for kind, found in table.items():
        refused = sum(map(bool, found))
        print(f"{kind.replace('_', ' '):<32}{len(found):>6}{len(found) - refused:>8}{refused:>9}")
    clips_found = [problems for found in table.values() for problems in found]
    refused = sum(map(bool, clips_found))
    passed = len(clips_found) - refused
    print(f"{'all':<32}{len(clips_found):>6}{passed:>8}{refused:>9}\n")
    return passed, refused


if __name__ == "__main__":
    main()
