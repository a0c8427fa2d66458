"""Fuzz the readers, guided by code coverage: `uv run --group fuzz python tests/fuzzing/guided.py`.

Each reader runs in its own process for a number of seconds. Inputs that break a promise are written to
`cases/READER/`, where the test suite reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
CASES = Path(__file__).parent / "cases"
NAMES = ("answers", "logs", "references", "waits", "records", "connections", "films", "cards", "excerpts")


def fuzz(name: str, seconds: int, corpus: str, findings: str) -> None:
    """Fuzz one reader in this process, until the first finding or the end of the time."""
    import atheris

    with atheris.instrument_imports(include=["airflow_vace"]):
        from fuzzing.readers import READERS

    options = [
        f"-max_total_time={seconds}",
        "-max_len=2048",
        "-timeout=10",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={findings}/", corpus], READERS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz all readers, print a table, return 1 after any finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readers", nargs="*", choices=[*NAMES, []], help="readers to fuzz (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader (%(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("CORPUS", "FINDINGS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.readers[0], options.seconds, *options.one)
        return 0
    found_any = False
    print(f"{'reader':<12} {'executions':>11} {'a second':>9} {'branches':>9}  found")
    for name in options.readers or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            findings = Path(folder, "findings")
            corpus = Path(folder, "corpus")
            corpus.mkdir()
            findings.mkdir()
            for case in (CASES / name).glob("*"):
                (corpus / case.name).write_bytes(case.read_bytes())
            command = [sys.executable, __file__, name, "--seconds", str(options.seconds)]
            began = time.monotonic()
            ran = subprocess.run(
                [*command, "--one", str(corpus), str(findings)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            )
            took = time.monotonic() - began
            executions = re.findall(r"^#(\d+)\s", ran.stderr, re.MULTILINE)
            count = int(executions[-1]) if executions else 0
            covered = re.findall(r"cov: (\d+)", ran.stderr)
            kept = [keep(name, path) for path in sorted(findings.iterdir())]
            found = " ".join(kept) or "nothing" if ran.returncode == 0 or kept else ran.stderr[-2000:]
            print(
                f"{name:<12} {count:>11,} {count / took:>9,.0f} {covered[-1] if covered else '?':>9}  {found}"
            )
            if ran.returncode:
                found_any = True
                print(ran.stderr[-1500:])
    return int(found_any)


def keep(name: str, path: Path) -> str:
    """Copy a finding to the cases of the test suite."""
    content = path.read_bytes()
    kept = CASES / name / hashlib.sha256(content).hexdigest()[:12]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return f"{path.name.partition('-')[0]}: {kept.name}"


if __name__ == "__main__":
    sys.exit(main())
