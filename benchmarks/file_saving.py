"""The cost of saving a large video: peak memory, and throughput compared with curl.

The emulator serves the file, 1 GiB by default. The package and curl, each in a separate process, write the
same URL to the same disk in turns. With the dependency group `stores` the file goes to an S3 server (moto)
too; moto's speed then dominates the result.

    uv run --group stores python benchmarks/file_saving.py [--mib 1024] [--rounds 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

SAVE = """
import json, resource, sys, time
from airflow_vace.hooks import VaceHook
from airflow_vace.storage.destination import Destination
from airflow_vace.storage.paths import place_of
from airflow_vace.storage.save import save_output

hook = VaceHook()
prediction = hook.get_prediction(sys.argv[1])
destination = Destination.of(sys.argv[2])
# Load the libraries of every task first, so only the save itself counts.
place_of(destination.save_to, "save_to").size()

def peak():
    text = open("/proc/self/status").read()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024

before = peak()
began = time.monotonic()
(file,) = save_output(hook, prediction, destination)
seconds = time.monotonic() - began
print("RESULT " + json.dumps({"seconds": seconds, "before": before, "after": peak(), "size": file["size"]}))
"""


def _curl(url: str, folder: Path) -> float:
    began = time.monotonic()
    command = ["curl", "-sS", "--fail", "-o", str(folder / "curl.mp4"), url]
    subprocess.run(command, check=True)
    seconds = time.monotonic() - began
    (folder / "curl.mp4").unlink()
    return seconds


def _saved(prediction_id: str, save_to: str) -> dict[str, float]:
    command = [sys.executable, "-c", SAVE, prediction_id, save_to]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.partition("RESULT ")[2])
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="vace-saving-"))
    os.environ["AIRFLOW_HOME"] = str(scratch / "home")
    os.environ["NO_PROXY"] = "127.0.0.1"
    try:
        _measure(options.mib, options.rounds, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _measure(mib: int, rounds: int, scratch: Path) -> None:
    from airflow_vace.emulator import Emulator
    from airflow_vace.hooks import VaceHook
    from support.s3 import S3

    with Emulator(time_scale=0.0002) as emulator:
        os.environ["AIRFLOW_CONN_VACE_DEFAULT"] = emulator.connection
        hook = VaceHook()
        prediction = hook.wait_for_prediction(hook.create_prediction({"prompt": "a fox", "frame_num": 5}))
        url = prediction.output_urls[0]
        # The first download renders the video.
        _curl(url, scratch)
        (path,) = Path(emulator._folder or "").glob("*.mp4")  # noqa: SLF001 - the emulator publishes no path
        # Grow the file by a box of type "free", which players skip, so the MP4 stays valid.
        content = path.read_bytes()
        with path.open("ab") as file:
            rest = mib * 1024**2 - len(content)
            file.write(rest.to_bytes(4) + b"free")
            block = os.urandom(1024**2)
            for at in range(0, rest - 8, len(block)):
                file.write(block[: min(len(block), rest - 8 - at)])
        curls = []
        rows: dict[str, list[dict[str, float]]] = {"local": []}
        has_s3 = all(importlib.util.find_spec(name) for name in ("moto", "s3fs", "boto3"))
        for turn in range(rounds):
            curls.append(_curl(url, scratch))
            rows["local"].append(_saved(prediction.id, f"{scratch}/{turn}/"))
            shutil.rmtree(scratch / str(turn))
        if has_s3:
            with S3() as server:
                os.environ["AIRFLOW_CONN_STORE"] = server.connection
                rows["s3"] = [_saved(prediction.id, "s3://store@clips/one/")]
    _report(mib, curls, rows)


def _report(mib: int, curls: list[float], rows: dict[str, list[dict[str, float]]]) -> None:
    curl = statistics.median(curls)
    spread = f"median of {len(curls)}, {min(curls):.2f}-{max(curls):.2f} s"
    print(f"{mib} MiB; curl: {mib / curl:.0f} MiB/s ({spread}); memory in MiB")
    print(f"{'to':<8}{'seconds':>9}{'MiB/s':>8}{'of curl':>9}{'peak before':>13}{'after':>7}{'grown by':>10}")
    for name, found in rows.items():
        seconds = statistics.median(row["seconds"] for row in found)
        before = statistics.median(row["before"] for row in found)
        grown = max(row["after"] - row["before"] for row in found)
        print(
            f"{name:<8}{seconds:>9.2f}{mib / seconds:>8.0f}{curl / seconds:>9.2f}"
            f"{before:>13.0f}{before + grown:>7.0f}{grown:>10.1f}"
        )


if __name__ == "__main__":
    main()
