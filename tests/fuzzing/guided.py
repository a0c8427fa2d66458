"""Fuzz the readers, guided by what their code does: `uv run --group fuzz python tests/fuzzing/guided.py`.

Each reader gets a process and so many seconds. What breaks a promise is written to `cases/READER/`, where the
suite finds it from then on.
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
    """Fuzz one reader in this process, which libFuzzer ends at the first finding or when time is up."""
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
    """Fuzz all, print a table, return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readers", nargs="*", choices=[*NAMES, []], help="which (all)")
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
            what = " ".join(kept) or "nothing" if ran.returncode == 0 or kept else ran.stderr[-2000:]
            print(
                f"{name:<12} {count:>11,} {count / took:>9,.0f} {covered[-1] if covered else '?':>9}  {what}"
            )
            if ran.returncode:
                found_any = True
                print(ran.stderr[-1500:])
    return int(found_any)


def keep(name: str, path: Path) -> str:
    """Keep a finding as a case of the suite."""
    content = path.read_bytes()
    kept = CASES / name / hashlib.sha256(content).hexdigest()[:12]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return f"{path.name.partition('-')[0]}: {kept.name}"


if __name__ == "__main__":
    sys.exit(main())
