"""A batch as a program, with a state store in a file, so that a test can kill the process.

Run as `python -m support.batch_program FOLDER TRY`; the result is written to `FOLDER/result.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ITEMS = 24


def _kept_in(path: Path) -> Any:
    """Return a state store that outlives the process."""
    from support.tasks import Store

    class FileStore(Store):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            super().set(key, value, retention=retention)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(self.rows))
            part.replace(path)

    store = FileStore()
    if path.exists():
        store.rows = json.loads(path.read_text())
    return store


def main(folder: Path, attempt: int) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from airflow_vace.exceptions import VaceError
    from airflow_vace.hooks import VaceHook
    from support.batches import batch

    seconds = dict.fromkeys(("intent_grace_seconds", "lost_create_lookup_seconds"), 1.0)
    VaceHook.timing = VaceHook.timing.scaled(0.05, **seconds)
    rows = [{"sku": f"TR-{number}", "prompt": f"fox {number}", "frame_num": 1} for number in range(ITEMS)]
    deferrable = os.environ["VACE_DEFERRABLE"] == "1"
    # A clip with problems leads to another prediction, as often as a test can make one.
    regenerates = os.environ["VACE_REGENERATES"] == "1"
    more = {"checks": "regenerate", "max_regenerations": 10} if regenerates else {}
    run = batch(
        folder / "videos",
        _kept_in(folder / "store.json"),
        inputs=rows,
        key="sku",
        deferrable=deferrable,
        max_in_flight=10,
        **more,
    )
    run.ti.try_number, run.ti.max_tries = attempt, 99
    try:
        result = run.result()
    except (VaceError, AirflowFailException) as error:
        result = {"error": str(error)}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
